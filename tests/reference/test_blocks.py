"""Tensors that do not fit into one block: the same bytes for every budget of memory and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import Tiny, meta_rank
from support.tiny_files import read_hf, read_meta, unequal, unequal_ranks, write_hf, write_meta

import llamatools

BUDGETS = [(1, 600 << 10), (3, 2 << 20), (4, 64 << 20)]
"""(workers, bytes): blocks of 64 KiB, which no matrix here fits in, up to whole tensors."""


@pytest.mark.parametrize(("jobs", "memory"), BUDGETS)
@pytest.mark.parametrize("style", ["llama-2", "llama-3"])
def test_many_blocks(style: str, jobs: int, memory: int, tmp_path: Path) -> None:
    """Odd sizes, so that blocks end inside heads, shards and rows of the vocabulary."""
    model = Tiny(style, head_dim=34, layers=1, ffn=520, vocab=1003, dtype=torch.float32)
    write_hf(model, tmp_path / "hf")
    write_meta(model, tmp_path / "meta", 4)

    def convert(source: str, out: str, options: llamatools.Options) -> None:
        llamatools.convert(tmp_path / source, tmp_path / out, options, jobs=jobs, max_memory=memory)

    convert("hf", "split", llamatools.Options(to="meta", shards=4))
    convert("meta", "joined", llamatools.Options(to="hf"))
    convert("meta", "recut", llamatools.Options(to="meta", shards=8))
    assert unequal_ranks(read_meta(tmp_path / "split"), read_meta(tmp_path / "meta")) == []
    assert unequal(read_hf(tmp_path / "joined"), model.truth) == []
    expected = [meta_rank(model, rank, 8) for rank in range(8)]
    assert unequal_ranks(read_meta(tmp_path / "recut"), expected) == []
