"""--check-finite: NaN and infinity are found wherever they are, and named; nothing else changes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.calls import call, leftovers, tree
from support.lora import plain, write_adapter
from support.tiny import Tensors, Tiny, finite
from support.tiny_files import write_hf, write_meta

NORM = "model.layers.1.input_layernorm.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
CHECK = "--check-finite"


def with_value(name: str, value: float, dtype: torch.dtype = torch.bfloat16) -> Tiny:
    """Numbers, but for the last element of one tensor."""
    model = finite(Tiny(dtype=dtype))
    model.truth[name].view(-1)[-1] = value
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [Q, NORM, "lm_head.weight"])
def test_found_in_every_type(name: str, value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    source = write_hf(with_value(name, value, dtype), tmp_path / "in")
    out = tmp_path / "out"
    assert call("convert", source, out, "--to", "meta", "--shards", 1).code == 0
    done = call("convert", source, tmp_path / "no", "--to", "meta", CHECK)
    assert done.code == 1
    assert "1 value NaN or infinite" in done.err
    assert done.err.count("error: ") == 1
    assert f"(model.safetensors:{name})" in done.err
    assert leftovers(tmp_path / "no") == []


@pytest.mark.parametrize("to", ["hf", "meta", "safetensors"])
@pytest.mark.parametrize("dtype", ["keep", "fp32"])
def test_what_is_finite_passes_and_the_bytes_are_the_same(
    to: str, dtype: str, tmp_path: Path
) -> None:
    source = write_meta(finite(Tiny()), tmp_path / "in", 2)
    for name, more in (("a", ()), ("b", (CHECK,)), ("c", ("--no-check-finite",))):
        words = ("convert", source, tmp_path / name, "--to", to, "--dtype", dtype)
        assert call(*words, *more).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


@pytest.mark.parametrize("jobs", [1, 4])
def test_every_tensor_and_value_is_counted(jobs: int, tmp_path: Path) -> None:
    model = finite(Tiny())
    model.truth[Q].view(-1)[::7] = math.nan
    model.truth[NORM].fill_(-math.inf)
    source = write_hf(model, tmp_path / "in")
    words = ("--to", "hf", CHECK, "--jobs", jobs, "--max-memory", "64KiB")
    done = call("convert", source, tmp_path / "out", *words)
    assert done.code == 1
    q = -(-model.truth[Q].numel() // 7)
    assert f"layers.0.attention.q.weight: {q} values NaN or infinite" in done.err
    assert f"layers.1.attention.norm.weight: {model.dim} values NaN or infinite" in done.err
    assert done.err.count("error: ") == 2


def test_a_cast_beyond_the_range(tmp_path: Path) -> None:
    source = write_hf(with_value(Q, 1e38), tmp_path / "in")
    words = ("convert", source, tmp_path / "out", "--to", "hf", "--dtype", "fp16")
    done = call(*words, CHECK)
    assert done.code == 1
    assert "layers.0.attention.q.weight: 1 value beyond the range of F16" in done.err
    assert call(*words).code == 0


# Merges look in any case.


def merge(base: Tiny, tmp_path: Path, *more: object, tensors: Tensors | None = None) -> str:
    """What a merge says; the exit code in front."""
    source = write_hf(base, tmp_path / "base")
    adapter = (
        plain(base, tmp_path / "adapter")
        if tensors is None
        else write_adapter(tmp_path / "adapter", tensors)
    )
    done = call("merge-lora", source, adapter, tmp_path / "out", *more)
    assert (done.code == 0) == (tmp_path / "out").exists()
    return f"{done.code} {done.err}"


@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", "lm_head.weight"])
def test_a_base_whose_other_tensors_are_no_numbers(name: str, tmp_path: Path) -> None:
    said = merge(with_value(name, math.nan), tmp_path)
    assert said.startswith("1 ")
    assert f"1 value NaN or infinite (model.safetensors:{name})" in said
    assert "--no-check-finite" in said


def test_a_base_whose_merged_tensor_is_no_number(tmp_path: Path) -> None:
    said = merge(with_value(Q, math.inf), tmp_path, "--no-check-finite")
    assert said.startswith("1 ")
    assert "layers.0.attention.q.weight: 1 merged values are NaN or beyond" in said


def test_a_merge_may_be_told_not_to_look(tmp_path: Path) -> None:
    assert merge(with_value(NORM, math.nan), tmp_path, "--no-check-finite").startswith("0 ")


def test_a_merge_of_numbers(tmp_path: Path) -> None:
    assert merge(finite(replace(Tiny())), tmp_path).startswith("0 ")


def test_both_kinds_are_told_at_once(tmp_path: Path) -> None:
    model = with_value(NORM, math.nan)
    model.truth[Q][0, 0] = math.nan
    said = merge(model, tmp_path)
    assert "layers.0.attention.q.weight: " in said
    assert "layers.1.attention.norm.weight: " in said
