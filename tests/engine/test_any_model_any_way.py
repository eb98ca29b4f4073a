"""Whatever the model, the layout, the blocks, the workers: the same model, the same bytes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import tree
from support.drawn import models, some
from support.tiny import Tiny, meta_rank
from support.tiny_files import (
    read_hf,
    read_meta,
    unequal,
    unequal_ranks,
    write_hf,
    write_meta,
)

import llamatools
from llamatools.checkpoint import open_checkpoint
from llamatools.conversion import prepare, run
from llamatools.engine.resources import Resources
from llamatools.errors import UsageError
from llamatools.plan.build import Options


def _convert(source: Path, out: Path, options: Options, jobs: int, block: int) -> str:
    """With blocks of about `block` bytes; returns the fingerprint."""
    with open_checkpoint(source) as opened:
        prepared = prepare(opened, out, options)
        limits = Resources(jobs, block, prepared.plan.peak(block))
        return str(run(replace(prepared, limits=limits))["fingerprint"])


def _counts(model: Tiny) -> list[int]:
    """Numbers of files that every part of the model can be split over."""
    return [
        n
        for n in range(1, model.heads + 1)
        if not (model.heads % n or model.dim % n or model.ffn % n)
        and (model.kv_heads % n == 0 or n % model.kv_heads == 0)
    ]


JOBS, BLOCKS = st.sampled_from((1, 2, 4)), st.sampled_from((1, 100, 700, 1 << 20))


@given(model=models(), jobs=JOBS, block=BLOCKS, size=st.sampled_from((1, 900, 10**9)))
@some
def test_hf_to_hf(model: Tiny, jobs: int, block: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = write_hf(model, Path(folder) / "in"), Path(folder) / "out"
        _convert(source, out, Options(to="hf", max_shard_size=size), jobs, block)
        assert unequal(read_hf(out), model.truth) == []
        assert llamatools.fingerprint(out).digest == llamatools.fingerprint(source).digest


@given(model=models(), jobs=JOBS, block=BLOCKS, data=st.data())
@some
def test_hf_to_meta_to_meta_to_hf(model: Tiny, jobs: int, block: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        first, second = (data.draw(st.sampled_from(_counts(model))) for _ in range(2))
        a = _convert(write_hf(model, at / "hf"), at / "m1", Options("meta", shards=first), 1, 1)
        b = _convert(at / "m1", at / "m2", Options("meta", shards=second), jobs, block)
        wanted = [meta_rank(model, r, second) for r in range(second)]
        assert unequal_ranks(read_meta(at / "m2"), wanted) == []
        c = _convert(at / "m2", at / "back", Options("hf"), jobs, block)
        assert unequal(read_hf(at / "back"), model.truth) == []
        assert a == b == c == llamatools.fingerprint(at / "m2").digest


@given(model=models(), jobs=JOBS, block=BLOCKS, data=st.data())
@some
def test_meta_to_safetensors_and_back(
    model: Tiny, jobs: int, block: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        files = data.draw(st.sampled_from(_counts(model)))
        source = write_meta(model, at / "in", files)
        a = _convert(source, at / "st", Options("safetensors", max_shard_size=2000), jobs, block)
        b = _convert(at / "st", at / "pth", Options("meta", shards=files), jobs, block)
        assert unequal_ranks(read_meta(at / "pth"), read_meta(source)) == []
        assert a == b == llamatools.fingerprint(source).digest


WAYS = [Options("hf"), Options("hf", weights="bin", max_shard_size=5000), Options("meta", shards=4)]


@pytest.mark.parametrize("options", WAYS, ids=lambda o: f"{o.to}-{o.weights}")
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_bytes_depend_on_neither_workers_nor_blocks_nor_time(
    layout: str, options: Options, tmp_path: Path
) -> None:
    """The manifest included."""
    model = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=301, attention_bias=True)
    source = (write_hf if layout == "hf" else lambda m, p: write_meta(m, p, 2))(
        model, tmp_path / "in"
    )
    wanted: dict[str, bytes] = {}
    for n, (jobs, block) in enumerate([(1, 8 << 20), (1, 1), (2, 500), (4, 100), (4, 1)]):
        out = tmp_path / f"out{n}"
        _convert(source, out, options, jobs, block)
        assert tree(out) == (wanted := wanted or tree(out)), (jobs, block)


def test_bytes_do_not_depend_on_the_memory_budget(tmp_path: Path) -> None:
    """Blocks of 64 KiB and of the whole tensor; a pass of casting on top."""
    model = Tiny(heads=4, kv_heads=2, head_dim=64, layers=1, ffn=512, vocab=2000)
    source = write_hf(model, tmp_path / "in")
    outs = []
    for memory, jobs in ((20 << 20, 1), (60 << 20, 2), (256 << 20, 4)):
        outs.append(tmp_path / f"out{jobs}")
        options = Options("meta", shards=2, dtype="fp32")
        llamatools.convert(source, outs[-1], options, max_memory=memory, jobs=jobs)
    first, *others = [tree(out) for out in outs]
    assert all(o == first for o in others)
    assert len(first) == 4


def test_a_budget_that_cannot_work_says_what_would(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "in")
    with pytest.raises(UsageError, match="--max-memory"):
        llamatools.convert(source, tmp_path / "out", Options("meta"), max_memory=100)
    assert not (tmp_path / "out").exists()


def test_a_budget_above_the_one_named_works(tmp_path: Path) -> None:
    """Its message says that 768 bytes would do."""
    source = write_hf(Tiny(), tmp_path / "in")
    llamatools.fingerprint(source, jobs=1, max_memory=1000)
