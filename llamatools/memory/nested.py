"""Parts of a config.json that nests a decoder's config and an image encoder's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llamatools.claims import Claims
from llamatools.jsonfields import Fields
from llamatools.layouts import hf_config
from llamatools.memory.architecture import Tower
from llamatools.memory.described import MOST_EXTENT


def text_config(data: Mapping[str, object]) -> tuple[Fields, Mapping[str, object], Claims]:
    """The decoder's part of a config that nests it; a text model's config is that part itself."""
    inner = data.get("text_config")
    text = dict(inner) if isinstance(inner, dict) else dict(data)
    text.setdefault("torch_dtype", data.get("torch_dtype") or data.get("dtype"))
    text["tie_word_embeddings"] = bool(data.get("tie_word_embeddings"))
    return Fields(text, f"{hf_config.NAME}: text_config"), text, hf_config.read_config(text)


def indices(f: Fields, data: Mapping[str, object], key: str, n_layers: int) -> frozenset[int]:
    value = data.get(key)
    good = isinstance(value, list) and all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < n_layers for i in value
    )
    if not good:
        f.problems.append(f"{hf_config.NAME}: {key}: expected numbers of layers")
        return frozenset()
    assert isinstance(value, list)
    return frozenset(value)


def tower_config(
    data: Mapping[str, object], f: Fields, released: Tower, keys: Mapping[str, str]
) -> Tower | None:
    """The image encoder a config states, of which a text model has none."""
    inner = data.get("vision_config")
    if not isinstance(inner, dict):
        return None
    v = Fields(inner, f"{hf_config.NAME}: vision_config")
    found = {name: v.count(key) for name, key in keys.items()}
    v.require(**{keys[name]: n for name, n in found.items()})
    ratios = inner.get("supported_aspect_ratios")
    if released.kind == "mllama" and isinstance(ratios, list):
        found["aspect_ratios"] = len(ratios)
    f.problems += v.problems
    stated = {name: n for name, n in found.items() if n is not None}
    too_large = {n for n in stated.values() if n > MOST_EXTENT}
    if too_large:
        f.problems.append(f"{hf_config.NAME}: vision_config: {max(too_large):,} is more than any")
    return replace(released, **stated)  # type: ignore[arg-type]
