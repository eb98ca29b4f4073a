"""Every comparison of this folder, made with something broken: each break is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny import Tiny
from support.tiny_files import read_meta, write_hf, write_meta

from llamatools.canonical import TENSORS
from llamatools.memory import estimates, fit, kv, need, parallel, parameters
from llamatools.memory.architecture import dense
from llamatools.memory.engines import PLAIN
from llamatools.memory.formats import FORMATS
from llamatools.memory.kv import whole_cache
from llamatools.memory.need import Deployment
from llamatools.memory.registry import by_name
from llamatools.memory.source import read_subject
from llamatools.spec import ModelSpec

MODEL = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=41)


def _ranks_are_files(folder: Path) -> bool:
    subject = read_subject(str(write_hf(MODEL, folder / "hf")))
    files = [
        sum(t.nbytes for t in rank.values())
        for rank in read_meta(write_meta(MODEL, folder / "meta", 4))
    ]
    a = subject.architecture
    return files == [parallel.shares(subject.weights, a, 4, rank, PLAIN).total for rank in range(4)]


def _cache_is_what_is_held(folder: Path) -> bool:
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    spec = ModelSpec(32, 2, 4, 2, 8, 48, 64, 1e-5, 1e4, None, 128, False)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, vocab_size=64,
    )  # fmt: skip
    cache: Any = DynamicCache()
    with torch.no_grad():
        LlamaForCausalLM(config)(torch.zeros(1, 5, dtype=torch.long), past_key_values=cache)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    return whole_cache(dense(spec), FORMATS["fp32"]).nbytes(5) == held


def _totals_are_published(folder: Path) -> bool:
    named = by_name("llama-3.2-1b")
    assert named is not None
    return sum(w.numel for w in parameters.weights(named.architecture)) == 1_235_814_400


def _more_ranks_save_no_cache(folder: Path) -> bool:
    named = by_name("llama-3.1-8b")
    assert named is not None
    a = named.architecture
    every = parameters.weights(a)
    caches = [
        Deployment(a, parallel.shares(every, a, tp, 0, PLAIN), FORMATS["bf16"], tp).need(99, 1).kv
        for tp in (8, 16)
    ]
    return caches[0] == caches[1] > 0


def _the_most_fits(folder: Path) -> bool:
    from llamatools.memory.gpus import known

    named = by_name("llama-3.1-8b")
    assert named is not None
    a = named.architecture
    s = parallel.shares(parameters.weights(a), a, 1, 0, PLAIN)
    d, gpu = Deployment(a, s, FORMATS["bf16"]), known()["h100-80gb"]
    most = fit.largest_context(d, gpu, 1)
    return d.need(most, 1).total <= gpu.visible * 0.9 < d.need(most + 1, 1).total


CHECKS = (
    _ranks_are_files,
    _cache_is_what_is_held,
    _totals_are_published,
    _more_ranks_save_no_cache,
    _the_most_fits,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_whole(check: Callable[[Path], bool], tmp_path: Path) -> None:
    assert check(tmp_path)


def _uneven_the_other_way(*a: Any, **k: Any) -> Any:
    axis, shape, rank, shards, _ = a
    where = 1 if axis == "columns" else 0
    size = shape[where] if axis != "copy" else shape[0] * shards
    return where, -(-rank * size // shards), -(-(rank + 1) * size // shards)


HEAD_ALWAYS = tuple(
    replace(t, present=lambda spec: True) if t.template == "head.weight" else t for t in TENSORS
)

BREAKS: dict[str, tuple[Callable[[Path], bool], object, str, object]] = {
    "heads are not repeated": (_ranks_are_files, parallel, "part", _uneven_the_other_way),
    "keys without values": (
        _cache_is_what_is_held, kv.Cache, "token_bytes",
        property(lambda c: c.format.row(c.heads * c.head_dim)),
    ),
    "a tied head counts": (_totals_are_published, parameters, "TENSORS", HEAD_ALWAYS),
    "heads are halved": (
        _more_ranks_save_no_cache, need, "kv_heads", lambda a, tp: a.spec.n_kv_heads // tp,
    ),
    "all that is visible is used": (_the_most_fits, estimates, "UTILISATION", (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_broken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, where, what, broken = BREAKS[name]
    monkeypatch.setattr(where, what, broken)
    assert not check(tmp_path)
