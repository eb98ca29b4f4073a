"""Llama 4: mixtures of experts that attend in chunks, for memory only."""

from __future__ import annotations

from collections.abc import Mapping

from llamatools.errors import BadInput
from llamatools.memory.architecture import Architecture, Experts, Layer, Tower
from llamatools.memory.described import Described
from llamatools.memory.formats import of_config
from llamatools.memory.nested import indices, text_config, tower_config
from llamatools.memory.settle import settle
from llamatools.spec import ModelSpec


def released_tower() -> Tower:
    """The image encoder of both released sizes."""
    return Tower("llama4", 1408, 5632, 34, 0, 336, 14, 16, 0, 4096, 4096)


def architecture(
    spec: ModelSpec,
    experts: Experts,
    chunk: int | None,
    whole: frozenset[int],
    mixed: frozenset[int],
    tower: Tower | None,
) -> Architecture:
    """Llama 4: experts in layers `mixed`; attention within chunks, but in layers `whole`."""
    layers = tuple(
        Layer(window=None if i in whole else chunk, experts=i in mixed)
        for i in range(spec.n_layers)
    )
    return Architecture(spec, layers, experts=experts, tower=tower)


def read(data: Mapping[str, object]) -> Described:
    f, text, claims = text_config(data)
    spec, notes, warnings = settle(claims)
    chunk = f.count("attention_chunk_size")
    n = spec.n_layers
    roped = text.get("no_rope_layers")
    if isinstance(roped, list) and roped:
        whole = frozenset(i for i, on in enumerate(roped[:n]) if not on)
    else:
        every = f.count("no_rope_layer_interval") or 4
        whole = frozenset(range(every - 1, n, every))
    if isinstance(text.get("moe_layers"), list):
        mixed = indices(f, text, "moe_layers", n)
    else:
        step = f.count("interleave_moe_layer_step") or 1
        mixed = frozenset(range(step - 1, n, step))
    count, wide = f.count("num_local_experts"), f.count("intermediate_size_mlp")
    f.require(num_local_experts=count, intermediate_size_mlp=wide)
    tower = tower_config(data, f, released_tower(), {
        "dim": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
        "image": "image_size", "patch": "patch_size", "output": "vision_output_dim",
        "adapter": "projector_input_dim",
    })  # fmt: skip
    if f.problems:
        raise BadInput(f.problems)
    experts = Experts(count or 1, wide or spec.ffn_dim)
    a = architecture(spec, experts, chunk, whole, mixed, tower)
    return Described(a, of_config(claims.dtype), notes, warnings)
