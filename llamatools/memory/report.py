"""The report that `inspect --kv-memory --json` prints; schemas/memory.json describes it.

Every figure says whether it is exact or an estimate; an estimate says where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamatools.errors import UsageError
from llamatools.memory import estimates
from llamatools.memory.engines import PLAIN, Engine
from llamatools.memory.fit import Search, largest_batch, largest_context, verdict
from llamatools.memory.formats import FORMATS, Format
from llamatools.memory.gpus import Gpu, known
from llamatools.memory.kv import whole_cache
from llamatools.memory.need import Deployment, Need
from llamatools.memory.parallel import Shares, kv_heads, problems, shares, vocabulary
from llamatools.memory.parameters import Weight, by_group, cast
from llamatools.memory.source import Subject
from llamatools.text import count

SCHEMA = "urn:llamatools:memory:1"
_USUAL_CONTEXTS = (8192, 32768, 131072)

Report = dict[str, object]


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    contexts: tuple[int, ...] = ()
    """Tokens of each sequence; empty: the usual ones, up to the model's own."""
    batch: int = 1
    images: int = 1
    """Images in each sequence, where the model caches them apart."""
    kv_dtype: str | None = None
    """None: the type most weights are in."""
    weights_dtype: str | None = None
    """None: as stored."""
    engine: Engine = PLAIN
    tp: int = 1
    pp: int = 1
    gpus: tuple[Gpu, ...] = ()
    limit: int | None = None
    """Bytes a GPU may need."""


def exact(value: int) -> Report:
    return {"value": value, "kind": "exact"}


def estimate(value: int, source: str) -> Report:
    return {"value": value, "kind": "estimate", "source": source}


@dataclass(frozen=True)
class Answer:
    """The report, whether a limit was passed, and what computes it for other contexts."""

    report: Report
    over: bool
    deployment: Deployment


@dataclass
class _Asked:
    """Everything that the parts of the report share."""

    subject: Subject
    question: Question
    weights: tuple[Weight, ...] = field(init=False)
    loose: str | None = field(init=False)
    """Why the weights' bytes are no exact figure; None where they are one."""
    deployment: Deployment = field(init=False)
    kv_format: Format = field(init=False)

    def __post_init__(self) -> None:
        s, q = self.subject, self.question
        a = s.architecture
        wrong = problems(a, q.tp, q.pp)
        if wrong:
            raise UsageError(wrong, hint="these divisions leave ranks with unequal heads")
        self.weights, self.loose = _in_format(s, q.weights_dtype)
        self.kv_format = q.engine.format(q.kv_dtype) if q.kv_dtype else _cacheable(s.format)
        self.deployment = Deployment(
            a, self.shares(q.tp), self.kv_format, q.tp, q.pp, q.engine,
            q.images if a.crosses else 0, a.spec.context or 0,
        )  # fmt: skip

    def shares(self, tp: int) -> Shares:
        s = self.subject
        found = shares(self.weights, s.architecture, tp, tp - 1, self.question.engine)
        if self.loose is None or s.stored is None or self.question.weights_dtype:
            return found
        whole = sum(w.nbytes for w in self.weights)
        return _scaled(found, s.stored.nbytes, whole)

    def bytes(self, value: int) -> Report:
        """A figure made of weights."""
        return exact(value) if self.loose is None else estimate(value, self.loose)

    def cached(self, value: int, context: int) -> Report:
        """A figure made of caches of so many tokens."""
        windows = [k.window for k in self.subject.architecture.layers if k.window]
        if not windows or context <= min(windows) or self.question.engine.keeps_windows:
            return exact(value)
        return estimate(value, "a chunk at most in layers that look back no further; engines "
                        "keep some more")  # fmt: skip


def _scaled(s: Shares, up: int, down: int) -> Shares:
    return Shares(
        tuple(n * up // down for n in s.layers),
        s.first * up // down, s.last * up // down, s.tied * up // down,
    )  # fmt: skip


def _cacheable(stored: Format) -> Format:
    """What a cache is kept in where nothing else is asked for: the weights' type, if it computes.

    Engines compute quantised models in 16 bits.
    """
    return stored if stored.name in ("fp32", "bf16", "fp16") else FORMATS["bf16"]


def _in_format(s: Subject, name: str | None) -> tuple[tuple[Weight, ...], str | None]:
    if name is not None:
        fmt = FORMATS[name]
        loose = None if fmt.reach == "all" else (
            f"{name} for the linear layers, 16 bits for the rest" if fmt.reach == "linear"
            else f"{name} for every matrix, 32 bits for vectors"
        )  # fmt: skip
        return cast(s.weights, fmt), loose
    return s.weights, s.loose


def answer(subject: Subject, question: Question) -> Answer:
    """Everything asked of the model. UsageError where it cannot be divided as asked."""
    asked = _Asked(subject, question)
    contexts = question.contexts or _usual(subject.architecture.spec.context)
    needs = {c: asked.deployment.need(c, question.batch) for c in contexts}
    gate = _gate(asked, contexts, needs)
    gpus, longest = _gpus(asked, contexts, needs)
    report: Report = {
        "$schema": SCHEMA,
        "source": {"kind": subject.kind, "name": subject.name},
        "model": {"title": subject.title, "official": subject.official},
        "architecture": _architecture(subject),
        "parameters": _parameters(subject),
        "weights": _weights(asked),
        "kv": _kv(asked),
        "parallel": _parallel(asked),
        "contexts": [_context(asked, c, needs[c]) for c in contexts],
        "gpus": gpus,
        "limit": gate,
        "warnings": [*subject.warnings, *_warnings(asked, contexts)],
        "notes": [*subject.notes, *_notes(asked, longest)],
    }
    return Answer(report, bool(gate and gate["over"]), asked.deployment)


def _usual(native: int | None) -> tuple[int, ...]:
    most = native or _USUAL_CONTEXTS[0]
    return tuple(sorted({c for c in _USUAL_CONTEXTS if c < most} | {most}))


def _architecture(s: Subject) -> Report:
    a, spec = s.architecture, s.architecture.spec
    return {
        "dim": spec.dim,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "head_dim": spec.head_dim,
        "ffn_dim": spec.ffn_dim,
        "vocab_size": spec.vocab_size,
        "context": spec.context,
        "tied": spec.tied,
        "attention": spec.attention,
        "cross_attention_layers": a.crosses,
        "windowed_layers": a.windowed,
        "window": max((k.window or 0 for k in a.layers), default=0) or None,
        "experts": a.experts.count if a.experts else None,
        "expert_layers": sum(k.experts for k in a.layers),
    }


def _parameters(s: Subject) -> Report:
    groups = by_group(s.weights)
    return {
        "unique": exact(sum(groups.values())),
        "stored": exact(s.stored.elements) if s.stored else None,
        "by_group": {g: exact(n) for g, n in groups.items()},
    }


def _weights(asked: _Asked) -> Report:
    stored, q = asked.subject.stored, asked.question
    loaded = sum(w.nbytes for w in asked.weights)
    tag = asked.bytes
    if asked.loose and stored and not q.weights_dtype:
        loaded, tag = stored.nbytes, exact
    return {
        "stored": {
            "files": stored.files,
            "total": exact(stored.nbytes),
            "by_dtype": {
                name: {"tensors": n, "bytes": exact(size)}
                for name, (n, size) in stored.by_dtype.items()
            },
        } if stored else None,
        "dtype": q.weights_dtype or _formats(asked),
        "loaded": tag(loaded),
    }  # fmt: skip


def _formats(asked: _Asked) -> str:
    s = asked.subject
    if s.loose and s.stored:
        return "as stored"
    return ", ".join(dict.fromkeys(w.format.name for w in s.weights))


def _kv(asked: _Asked) -> Report:
    a, engine = asked.subject.architecture, asked.question.engine
    cache = whole_cache(a, asked.kv_format, engine)
    return {
        "dtype": asked.kv_format.name,
        "engine": engine.name,
        "block": engine.block,
        "per_token": exact(cache.per_token),
        "per_token_beyond_window": exact(cache.per_token_beyond),
        "per_image": exact(cache.per_image) if a.crosses else None,
        "heads_per_kv_head": a.spec.n_heads // a.spec.n_kv_heads,
        "per_token_as_mha": exact(cache.per_token * a.spec.n_heads // a.spec.n_kv_heads),
    }


def _parallel(asked: _Asked) -> Report:
    q, a, d = asked.question, asked.subject.architecture, asked.deployment
    return {
        "tp": q.tp,
        "pp": q.pp,
        "gpus": q.tp * q.pp,
        "kv_heads_per_gpu": kv_heads(a, q.tp),
        "kv_copies": max(1, q.tp // a.spec.n_kv_heads),
        "vocabulary_rows": vocabulary(a.spec.vocab_size, q.tp, q.engine),
        "stages": [
            {
                "first_layer": stage.layers.start,
                "layers": len(stage.layers),
                "weights": asked.bytes(stage.weights),
                "kv_per_token": exact(stage.cache.per_token),
            }
            for stage in d.stages
        ],
    }


def _context(asked: _Asked, context: int, need: Need) -> Report:
    batch = asked.question.batch
    return {
        "context": context,
        "batch": batch,
        "kv": asked.cached(asked.deployment.kv_total(context, batch), context),
        "per_gpu": {
            "weights": asked.bytes(need.weights),
            "kv": asked.cached(need.kv, context),
            "rope": estimate(need.extra.rope, estimates.SOURCES["rope"]),
            "activations": estimate(need.extra.activations, estimates.SOURCES["activations"]),
            "runtime": estimate(need.extra.runtime, estimates.SOURCES["runtime"]),
            "total": estimate(need.total, "the sum, estimates included"),
        },
        "smallest_gpu": next((g.key for g in known().values() if verdict(need, g) == "fits"), None),
    }


def _gpus(
    asked: _Asked, contexts: Sequence[int], needs: dict[int, Need]
) -> tuple[list[Report], int]:
    """Of each GPU; and the longest context on any."""
    d, batch = asked.deployment, asked.question.batch
    search = Search(d, asked.shares)
    out: list[Report] = []
    longest = 0
    for gpu in asked.question.gpus:
        fewest = search.fewest(gpu, contexts[-1], batch)
        most = largest_context(d, gpu, batch)
        longest = max(longest, most)
        by_sum = "the largest whose sum, estimates included, is within what is usable"
        out.append({
            "key": gpu.key,
            "title": gpu.title,
            "visible": estimate(gpu.visible, estimates.SOURCES["visible"]),
            "usable": estimate(gpu.usable, estimates.SOURCES["usable"]),
            "verdicts": [
                {"context": c, "verdict": verdict(needs[c], gpu)} for c in contexts
            ],
            "largest_context": estimate(most, by_sum),
            "largest_batch": [
                {"context": c, "batch": estimate(largest_batch(d, gpu, c), by_sum)}
                for c in contexts
            ],
            "fewest": {
                "context": contexts[-1],
                "tp": fewest.tp,
                "pp": fewest.pp,
                "gpus": estimate(fewest.gpus, by_sum.replace("largest", "smallest number")),
            } if fewest else None,
        })  # fmt: skip
    return out, longest


def _gate(asked: _Asked, contexts: Sequence[int], needs: dict[int, Need]) -> Report | None:
    limit = asked.question.limit
    if limit is None:
        return None
    most = max(needs[c].total for c in contexts)
    return {
        "bytes": limit,
        "needed": estimate(most, "the fullest GPU at the longest context, estimates included"),
        "over": most > limit,
    }


def _warnings(asked: _Asked, contexts: Sequence[int]) -> list[str]:
    """What may surprise, in a table: whether it is so, and the words."""
    q, a = asked.question, asked.subject.architecture
    native, kv = a.spec.context, a.spec.n_kv_heads
    beyond = [c for c in contexts if native and c > native]
    offered = q.engine.formats
    stages = asked.deployment.stages
    table: tuple[tuple[bool, Callable[[], str]], ...] = (
        (bool(beyond), lambda: (
            f"context {', '.join(f'{c:,}' for c in beyond)}: beyond the {native:,} tokens the "
            "model was made for"
        )),
        (q.tp > kv, lambda: (
            f"--tp {q.tp}: {count(kv, 'key-value head')} for {q.tp} ranks, so each is held "
            f"{q.tp // kv} times; ranks beyond {kv} save no KV memory"
        )),
        (bool(offered) and asked.kv_format.name not in offered, lambda: (
            f"{q.engine.name}: a KV cache in {asked.kv_format.name} is none of those it has "
            f"({', '.join(offered)})"
        )),
        (len({len(s.layers) for s in stages}) > 1, lambda: (
            f"--pp {q.pp}: stages of unequal size, "
            f"{', '.join(str(len(s.layers)) for s in stages)} layers; the fullest decides"
        )),
    )  # fmt: skip
    return [words() for true, words in table if true]


def _notes(asked: _Asked, longest: int) -> list[str]:
    a, q = asked.subject.architecture, asked.question
    native = a.spec.context
    padded = vocabulary(a.spec.vocab_size, q.tp, q.engine)
    table: tuple[tuple[bool, Callable[[], str]], ...] = (
        (bool(native) and longest > (native or 0), lambda: (
            f"longest is what memory allows; the model was made for {native:,} tokens"
        )),
        (padded > a.spec.vocab_size, lambda: (
            f"{q.engine.name} pads the vocabulary to {padded:,} rows"
        )),
        (bool(a.windowed), lambda: (
            f"{a.windowed} of {a.spec.n_layers} layers keep one chunk of tokens at most; engines "
            "keep some more while they read a prompt"
        )),
        (bool(a.crosses), lambda: (
            f"{count(q.images, 'image')} a sequence: {a.image_tokens:,} tokens each in "
            f"{a.crosses} cross-attention layers"
        )),
        (bool(a.tower), lambda: "the image encoder counts as resident; what it computes with "
            "does not"),
    )  # fmt: skip
    return [words() for true, words in table if true]
