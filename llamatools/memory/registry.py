"""Released models by name, so that no file is needed to ask about them.

Those that are converted come from family/registry.py. Llama 3.2 vision and Llama 4 are listed
here, and only here: their memory is known, and nothing else is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from llamatools.family.registry import OFFICIAL, Official
from llamatools.memory import llama4, mllama
from llamatools.memory.architecture import Architecture, Experts, dense
from llamatools.spec import ModelSpec, llama3_scaling


@dataclass(frozen=True)
class Named:
    """A released model and what its memory depends on."""

    key: str
    title: str
    architecture: Architecture


def _dense(o: Official) -> Named:
    spec = ModelSpec(
        dim=o.dim,
        n_layers=o.n_layers,
        n_heads=o.n_heads,
        n_kv_heads=o.n_kv_heads,
        head_dim=o.dim // o.n_heads,
        ffn_dim=o.ffn_dim,
        vocab_size=o.vocab_size,
        norm_eps=o.norm_eps,
        rope_theta=o.rope_theta,
        rope_scaling=o.rope_scaling,
        context=o.context,
        tied=o.tied,
    )
    return Named(o.key, o.title, dense(spec, split_vocabulary=o.generation.split_vocabulary))


def _vision(key: str, title: str, dim: int, layers: int, heads: int, ffn: int) -> Named:
    """Every fifth layer, from the fourth on, looks at the image."""
    spec = ModelSpec(dim, layers, heads, 8, 128, ffn, 128256, 1e-5, 5e5, llama3_scaling(8.0),
                     131072, False)  # fmt: skip
    crosses = frozenset(range(3, layers, 5))
    return Named(key, title, mllama.architecture(spec, crosses, mllama.released_tower()))


def _mixture(key: str, title: str, experts: int, step: int, context: int) -> Named:
    """Every `step`-th layer has experts; every fourth attends to everything."""
    scaling = llama3_scaling(16.0) if step == 1 else None
    spec = ModelSpec(5120, 48, 40, 8, 128, 8192, 202048, 1e-5, 5e5, scaling, context, False)
    whole = frozenset(range(3, 48, 4))
    mixed = frozenset(range(step - 1, 48, step))
    return Named(
        key,
        title,
        llama4.architecture(
            spec, Experts(experts, 16384), 8192, whole, mixed, llama4.released_tower()
        ),
    )


MEMORY_ONLY = (
    _vision("llama-3.2-11b-vision", "Llama 3.2 11B Vision", 4096, 40, 32, 14336),
    _vision("llama-3.2-90b-vision", "Llama 3.2 90B Vision", 8192, 100, 64, 28672),
    _mixture("llama-4-scout", "Llama 4 Scout", 16, 1, 10 * (1 << 20)),
    _mixture("llama-4-maverick", "Llama 4 Maverick", 128, 2, 1 << 20),
)

ALIASES = {
    "llama-3.3-70b": "llama-3.1-70b",
    "llama-1-30b": "llama-1-33b",
    "llama-4-scout-17b-16e": "llama-4-scout",
    "llama-4-maverick-17b-128e": "llama-4-maverick",
}


def names() -> list[str]:
    return [*(o.key for o in OFFICIAL), *(m.key for m in MEMORY_ONLY), *ALIASES]


def by_name(name: str) -> Named | None:
    """The released model of this name, whatever the case of its letters."""
    key = ALIASES.get(name.lower(), name.lower())
    for m in MEMORY_ONLY:
        if m.key == key:
            return m
    return next((_dense(o) for o in OFFICIAL if o.key == key), None)


def alike(name: str) -> list[str]:
    """Names that this one may be a slip of."""
    return get_close_matches(name.lower(), names(), 3, 0.6)


def of_sizes(a: Architecture) -> Named | None:
    """The model of these sizes that only memory knows."""
    for m in MEMORY_ONLY:
        s, t = m.architecture.spec, a.spec
        mine = (s.dim, s.n_layers, s.n_heads, s.ffn_dim, m.architecture.experts)
        if mine == (t.dim, t.n_layers, t.n_heads, t.ffn_dim, a.experts):
            return m
    return None
