"""Which Llama a checkpoint is, from its numbers, with the evidence for and against."""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.claims import Claims
from llamatools.family.registry import GENERATIONS, OFFICIAL, Generation, Official
from llamatools.spec import ModelSpec, RopeScaling, llama3_scaling


@dataclass(frozen=True)
class Evidence:
    """One number compared with the official model's."""

    what: str
    found: object
    official: object

    @property
    def agrees(self) -> bool:
        return self.found == self.official


@dataclass(frozen=True)
class Identity:
    """The answer: an official architecture (exactly, or with differences) or a generation."""

    title: str
    generation: Generation
    official: Official | None
    evidence: tuple[Evidence, ...]

    @property
    def context(self) -> int:
        """The context length of the official model, else of the generation."""
        return self.official.context if self.official else self.generation.context

    @property
    def exact(self) -> bool:
        return self.official is not None and all(e.agrees for e in self.evidence)

    @property
    def differences(self) -> tuple[Evidence, ...]:
        return tuple(e for e in self.evidence if not e.agrees)


def resolve_scaling(claims: Claims, spec: ModelSpec, *, same_head: bool) -> RopeScaling | None:
    """The rope scaling meant by a file that says only that there is one."""
    if not claims.scaled or claims.rope_scaling:
        return claims.rope_scaling
    return llama3_scaling(implied_factor(spec, same_head))


def implied_factor(spec: ModelSpec, same_head: bool) -> float:
    """The factor that Meta's `use_scaled_rope` stands for, which its files do not state.

    An official model of the same sizes tells. For other sizes the generation does: scaled
    models whose head is the embedding are Llama 3.2's, with factor 32; the others have 8.
    """
    factors = {o.rope_factor for o in OFFICIAL if o.rope_factor and o.same_architecture(spec)}
    if len(factors) == 1:
        return factors.pop() or 0.0
    return 32.0 if same_head else 8.0


def identify(spec: ModelSpec, *, context_is_known: bool) -> Identity:
    """Compare with every official model of the same sizes; the closest one names it."""
    ranked = sorted(
        (_Candidate(o, _compare(o, spec, context_is_known)) for o in OFFICIAL
         if o.same_architecture(spec)),
        key=lambda c: c.distance,
    )  # fmt: skip
    if not ranked:
        generation = infer_generation(spec)
        title = f"unlisted model in the style of {generation.title}"
        return Identity(title, generation, None, _family_evidence(generation, spec))
    best = ranked[0]
    title = best.official.title
    if any(not e.agrees for e in best.evidence):
        title = f"descendant of {title}"
    return Identity(title, best.official.generation, best.official, best.evidence)


@dataclass(frozen=True)
class _Candidate:
    official: Official
    evidence: tuple[Evidence, ...]

    @property
    def distance(self) -> tuple[int, int]:
        """Differences; a vocabulary of another size is what descendants have, and counts last."""
        wrong = [e.what for e in self.evidence if not e.agrees]
        return sum(w != "vocab_size" for w in wrong), len(wrong)


def _compare(o: Official, spec: ModelSpec, context_is_known: bool) -> tuple[Evidence, ...]:
    evidence = [
        Evidence("dim", spec.dim, o.dim),
        Evidence("n_layers", spec.n_layers, o.n_layers),
        Evidence("n_heads", spec.n_heads, o.n_heads),
        Evidence("n_kv_heads", spec.n_kv_heads, o.n_kv_heads),
        Evidence("ffn_dim", spec.ffn_dim, o.ffn_dim),
        Evidence("vocab_size", spec.vocab_size, o.vocab_size),
        Evidence("norm_eps", spec.norm_eps, o.norm_eps),
        Evidence("rope_theta", spec.rope_theta, o.rope_theta),
        Evidence("rope_scaling", _scaling(spec.rope_scaling), _scaling(o.rope_scaling)),
        Evidence("head_dim", spec.head_dim, o.dim // o.n_heads),
        Evidence("tied", spec.tied, o.tied),
    ]
    if context_is_known:
        evidence.append(Evidence("context", spec.context, o.context))
    return tuple(evidence)


def _scaling(scaling: RopeScaling | None) -> str:
    """A scaling in a few words, with whatever sets it apart from Llama 3's."""
    if scaling is None:
        return "none"
    text = f"{scaling.kind} x{scaling.factor:g}"
    return text if scaling == llama3_scaling(scaling.factor) else f"{text} {_details(scaling)}"


def _details(s: RopeScaling) -> str:
    return f"({s.low_freq_factor}, {s.high_freq_factor}, {s.original_context})"


def infer_generation(spec: ModelSpec) -> Generation:
    """The generation whose constants these are, for sizes that no official model has."""
    if spec.rope_scaling and spec.rope_scaling.kind == "llama3":
        return GENERATIONS["llama-3.2" if spec.tied else "llama-3.1"]
    if spec.rope_theta == GENERATIONS["llama-3"].theta or spec.vocab_size >= 128000:
        return GENERATIONS["llama-3"]
    if spec.rope_theta == GENERATIONS["code-llama"].theta:
        return GENERATIONS["code-llama"]
    old = spec.norm_eps == 1e-6 and spec.n_kv_heads == spec.n_heads
    return GENERATIONS["llama-1" if old else "llama-2"]


def _family_evidence(g: Generation, spec: ModelSpec) -> tuple[Evidence, ...]:
    scaled = spec.rope_scaling is not None
    return (
        Evidence("rope_theta", spec.rope_theta, g.theta),
        Evidence("rope_scaled", scaled, g.scaled),
    )
