"""Meta files that outnumber the key-value heads.

Llama 3.1 405B in 16 files has 8 heads, each in two files, and a params.json that says 16. Read
naively, its key-value cache doubles.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.tiny import Tensors, Tiny, meta_rank
from support.tiny_files import meta_params, read_hf, read_meta, unequal, write_meta, write_ranks
from transformers import AutoConfig

import llamatools
from llamatools.errors import BadInput

MODEL_16 = Tiny("llama-3.1", heads=16, kv_heads=8, head_dim=4, ffn=64, vocab=48)
"""The shape of 405B's trap: 16 files, 8 heads."""


def _to_hf(source: Path, tmp_path: Path) -> tuple[Tensors, int]:
    """The converted tensors, and the key-value heads that transformers reads from the config."""
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    config = AutoConfig.from_pretrained(tmp_path / "hf", local_files_only=True)
    return read_hf(tmp_path / "hf"), config.num_key_value_heads


@pytest.mark.parametrize("stored", [16, 8], ids=["counts copies", "counts heads"])
def test_sixteen_files_of_eight_heads_collapse(stored: int, tmp_path: Path) -> None:
    source = write_meta(MODEL_16, tmp_path / "meta", 16, stored_kv_heads=stored)
    assert json.loads((source / "params.json").read_text())["n_kv_heads"] == stored
    with llamatools.open_checkpoint(source) as opened:
        assert (opened.spec.n_kv_heads, opened.kv_copies) == (8, 2)
    tensors, n_kv_heads = _to_hf(source, tmp_path)
    assert n_kv_heads == 8
    assert unequal(tensors, MODEL_16.truth) == []


@pytest.mark.parametrize(
    ("heads", "kv_heads", "files"), [(8, 2, 4), (8, 2, 8), (6, 1, 6), (6, 1, 3), (8, 4, 8)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_other_repeats_collapse(
    heads: int, kv_heads: int, files: int, biased: bool, tmp_path: Path
) -> None:
    model = Tiny(heads=heads, kv_heads=kv_heads, attention_bias=biased)
    tensors, n_kv_heads = _to_hf(write_meta(model, tmp_path / "meta", files), tmp_path)
    assert n_kv_heads == kv_heads
    assert unequal(tensors, model.truth) == []


@pytest.mark.parametrize("files", [2, 4, 8, 16])
def test_as_many_different_heads_as_files_stay(files: int, tmp_path: Path) -> None:
    model = Tiny(heads=16, kv_heads=files, head_dim=4, ffn=64, vocab=48)
    source = write_meta(model, tmp_path / "meta", files)
    with llamatools.open_checkpoint(source) as opened:
        assert (opened.spec.n_kv_heads, opened.kv_copies) == (files, 1)
    tensors, n_kv_heads = _to_hf(source, tmp_path)
    assert n_kv_heads == files
    assert unequal(tensors, model.truth) == []


def _edit(model: Tiny, files: int, folder: Path, *names: str, source_rank: int = 0) -> Path:
    """A genuine model but for `names`, which ranks 0 and 1 share."""
    ranks = [meta_rank(model, rank, files) for rank in range(files)]
    for name in names:
        ranks[1 - source_rank][name] = ranks[source_rank][name].clone()
    return write_ranks(folder, ranks, meta_params(model, files))


@pytest.mark.parametrize(
    "names",
    [
        ["layers.0.attention.wk.weight"],
        ["layers.0.attention.wv.weight"],
        ["layers.0.attention.wk.weight", "layers.0.attention.wv.weight"],
    ],
    ids=["k", "v", "k and v"],
)
def test_some_equal_heads_do_not_collapse(names: list[str], tmp_path: Path) -> None:
    """Heads 0 and 1 are alike, 2 and 3 are not: the model has four."""
    model = Tiny(heads=8, kv_heads=4)
    tensors, n_kv_heads = _to_hf(_edit(model, 4, tmp_path / "meta", *names), tmp_path)
    assert n_kv_heads == 4
    kinds = {"wk": "k_proj", "wv": "v_proj"}
    changed = [f"model.layers.0.self_attn.{kinds[n.split('.')[3]]}.weight" for n in names]
    assert unequal(tensors, model.truth) == changed


def test_equal_keys_with_different_values_do_not_collapse(tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=4)
    ranks = [meta_rank(model, rank, 4) for rank in range(4)]
    for i in range(model.layers):
        for rank in (1, 3):
            name = f"layers.{i}.attention.wk.weight"
            ranks[rank][name] = ranks[rank - 1][name].clone()
    source = write_ranks(tmp_path / "meta", ranks, meta_params(model, 4))
    assert _to_hf(source, tmp_path)[1] == 4


def test_zeros_do_not_collapse(tmp_path: Path) -> None:
    """Equal because empty is no evidence of copies."""
    model = Tiny(heads=8, kv_heads=4)
    ranks = [
        {name: torch.zeros_like(t) for name, t in meta_rank(model, rank, 4).items()}
        for rank in range(4)
    ]
    source = write_ranks(tmp_path / "meta", ranks, meta_params(model, 4))
    with llamatools.open_checkpoint(source) as opened:
        assert (opened.spec.n_kv_heads, opened.kv_copies, opened.spec.tied) == (4, 1, False)
    tensors, n_kv_heads = _to_hf(source, tmp_path)
    assert n_kv_heads == 4
    assert tensors["model.layers.0.self_attn.k_proj.weight"].shape == (4 * 6, 48)
    assert "lm_head.weight" in tensors


def test_copies_that_differ_in_a_later_layer_lose_nothing(tmp_path: Path) -> None:
    """Layer 0 looks like copies, layer 1 is not: either all four heads, or a refusal."""
    model = Tiny(heads=8, kv_heads=4)
    ranks = [meta_rank(model, rank, 4) for rank in range(4)]
    for name in ("layers.0.attention.wk.weight", "layers.0.attention.wv.weight"):
        for rank in (1, 3):
            ranks[rank][name] = ranks[rank - 1][name].clone()
    source = write_ranks(tmp_path / "meta", ranks, meta_params(model, 4))
    with pytest.raises(BadInput, match=r"layers\.1\.attention"):
        _to_hf(source, tmp_path)
    assert not (tmp_path / "hf").exists()


def test_claimed_copies_that_differ_are_refused(tmp_path: Path) -> None:
    """params.json says two heads, but the four files hold four."""
    model = Tiny(heads=8, kv_heads=4)
    source = write_meta(model, tmp_path / "meta", 4, stored_kv_heads=2)
    with pytest.raises(BadInput, match=r"attention\.[kv]"):
        _to_hf(source, tmp_path)
    assert not (tmp_path / "hf").exists()


def test_collapsed_model_goes_back_into_sixteen_files(tmp_path: Path) -> None:
    source = write_meta(MODEL_16, tmp_path / "meta", 16)
    _to_hf(source, tmp_path)
    options = llamatools.Options(to="meta", shards=16)
    llamatools.convert(tmp_path / "hf", tmp_path / "back", options)
    for found, wanted in zip(read_meta(tmp_path / "back"), read_meta(source), strict=True):
        assert unequal(found, wanted) == []
    assert json.loads((tmp_path / "back" / "params.json").read_text())["n_kv_heads"] == 16
