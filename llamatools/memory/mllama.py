"""Llama 3.2 vision: layers that look at images among those of a Llama 3.1, for memory only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llamatools.errors import BadInput
from llamatools.jsonfields import Fields
from llamatools.layouts import meta_config
from llamatools.memory.architecture import Architecture, Layer, Tower
from llamatools.memory.described import MOST_EXTENT, MOST_LAYERS, Described
from llamatools.memory.formats import of_config
from llamatools.memory.nested import indices, text_config, tower_config
from llamatools.memory.settle import settle
from llamatools.spec import ModelSpec


def released_tower() -> Tower:
    """The image encoder of both released sizes."""
    return Tower("mllama", 1280, 5120, 32, 8, 560, 14, 4, 8, 7680)


def architecture(spec: ModelSpec, crosses: frozenset[int], tower: Tower | None) -> Architecture:
    """Llama 3.2 vision: some layers attend to the image instead of the text."""
    layers = tuple(Layer("cross" if i in crosses else "self") for i in range(spec.n_layers))
    return Architecture(spec, layers, tower=tower, extra_rows=8)


def read(data: Mapping[str, object]) -> Described:
    f, text, claims = text_config(data)
    spec, notes, warnings = settle(claims)
    crosses = indices(f, text, "cross_attention_layers", spec.n_layers)
    tower = tower_config(data, f, released_tower(), {
        "dim": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
        "global_layers": "num_global_layers", "image": "image_size", "patch": "patch_size",
        "tiles": "max_num_tiles", "output": "vision_output_dim",
    })  # fmt: skip
    if f.problems:
        raise BadInput(f.problems)
    return Described(architecture(spec, crosses, tower), of_config(claims.dtype), notes, warnings)


def _spread(total: int, crosses: int) -> frozenset[int]:
    """Which layers cross-attend: one after as many others as there are for each, as released."""
    if not crosses:
        return frozenset()
    step = total // crosses
    return frozenset(range(max(0, step - 2), total, step)[:crosses])


def counts_crosses(data: Mapping[str, object]) -> bool:
    """Whether a params.json is that of such a model."""
    return "vision_num_cross_attention_layers" in data and "moe_args" not in data


def widen(spec: ModelSpec, data: Mapping[str, object]) -> Architecture:
    """The architecture of a params.json, whose n_layers leaves out those that look at images."""
    f = Fields(data, meta_config.NAME)
    crosses = f.count("vision_num_cross_attention_layers") or 0
    image, tiles = f.count("vision_chunk_size"), f.count("vision_max_num_chunks")
    f.problems += [
        f"{meta_config.NAME}: {key} {n:,} is more than any model has ({most:,})"
        for key, n, most in (
            ("vision_num_cross_attention_layers", crosses, MOST_LAYERS),
            ("vision_chunk_size", image or 0, MOST_EXTENT),
            ("vision_max_num_chunks", tiles or 0, MOST_EXTENT),
        )
        if n > most
    ]
    if f.problems:
        raise BadInput(f.problems)
    total = spec.n_layers + crosses
    default = released_tower()
    tower = replace(default, image=image or default.image, tiles=tiles or default.tiles)
    return architecture(replace(spec, n_layers=total), _spread(total, crosses), tower)
