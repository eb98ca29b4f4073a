"""Casts against torch's own, element by element."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from support.tiny import Tiny, as_bits
from support.tiny_files import read_hf, unequal, write_hf, write_meta

import llamatools

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(DTYPES, 2)])
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_cast_is_torchs(before: str, after: str, layout: str, tmp_path: Path) -> None:
    """Random bits: subnormals, infinities, values that overflow. NaN stays NaN."""
    model = Tiny(dtype=DTYPES[before], norm_dtype=DTYPES[after], vocab=1001)
    if layout == "hf":
        source = write_hf(model, tmp_path / "source")
    else:
        source = write_meta(model, tmp_path / "source", 4)
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf", dtype=after))
    found = read_hf(tmp_path / "hf")
    assert found.keys() == model.truth.keys()
    for name, t in model.truth.items():
        wanted = t.to(DTYPES[after])
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name].isnan(), wanted.isnan()), name
        numbers = ~wanted.isnan()
        assert torch.equal(as_bits(found[name])[numbers], as_bits(wanted)[numbers]), name


def test_cast_does_not_depend_on_memory(tmp_path: Path) -> None:
    """The same input and options give the same bytes, in blocks of any size."""
    model = Tiny(heads=3, kv_heads=3, head_dim=2, vocab=30001, dtype=torch.float16)
    write_hf(model, tmp_path / "source")
    options = llamatools.Options(to="hf", dtype="fp32")
    for memory in (17 << 20, 256 << 20):
        out = tmp_path / str(memory)
        llamatools.convert(tmp_path / "source", out, options, jobs=1, max_memory=memory)
    small, large = (read_hf(tmp_path / str(memory)) for memory in (17 << 20, 256 << 20))
    assert unequal(small, large) == []
