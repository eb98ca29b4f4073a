"""Expressions fill any block of rows with what numpy makes of the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import some
from support.stored import Words, filled, store, view

from llamatools.errors import BadInput
from llamatools.expr import nodes as expr
from llamatools.expr.arena import Arena
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Agree, Concat, Expr, Read, ToHalves


def _storage(n: int, seed: int = 0) -> Words:
    return np.random.default_rng(seed).integers(0, 1 << 16, n, np.uint16)


def _matrix(path: Path, rows: int, columns: int, seed: int = 0) -> tuple[Read, Words]:
    words = _storage(rows * columns, seed)
    return Read(store(path, words, (rows, columns), (columns, 1))), words.reshape(rows, columns)


LAYS = {
    "contiguous": ((7, 5), (5, 1), 0),
    "offset": ((7, 5), (5, 1), 11),
    "transposed": ((7, 5), (1, 7), 0),
    "columns sliced": ((7, 5), (9, 1), 3),
    "rows skipped": ((7, 5), (10, 1), 0),
    "columns skipped": ((7, 5), (20, 3), 2),
    "transposed and sliced": ((7, 5), (2, 30), 1),
    "one row repeated": ((7, 5), (0, 1), 4),
    "one column repeated": ((7, 5), (1, 0), 0),
    "one element repeated": ((7, 5), (0, 0), 6),
    "overlapping rows": ((7, 5), (2, 1), 0),
    "one row": ((1, 5), (999, 1), 0),
    "one column": ((7, 1), (3, 77), 0),
    "vector": ((35,), (1,), 5),
    "vector skipped": ((35,), (4,), 1),
    "vector repeated": ((35,), (0,), 9),
}


@pytest.mark.parametrize("lay", LAYS.values(), ids=LAYS)
@pytest.mark.parametrize("gather", [1 << 22, 16, 2], ids=["large", "16", "2"])
def test_any_strides(
    lay: tuple[tuple[int, ...], tuple[int, ...], int],
    gather: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The storage is larger than the tensor; runs are cut at `gather` bytes."""
    monkeypatch.setattr(expr, "_GATHER_BYTES", gather)
    shape, strides, offset = lay
    words = _storage(400)
    value = Read(store(tmp_path / "t", words, shape, strides, offset))
    wanted = view(words, shape, strides, offset).reshape(shape[0], -1)
    for start in range(shape[0]):
        for stop in {start + 1, shape[0], (start + shape[0] + 1) // 2} - {start}:
            assert np.array_equal(filled(value, start, stop), wanted[start:stop])


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    strides=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    offset=st.integers(0, 30),
)
@some
def test_random_strides(rows: int, columns: int, strides: tuple[int, int], offset: int) -> None:
    words = _storage(400)
    with tempfile.TemporaryDirectory() as folder:
        value = Read(store(Path(folder) / "t", words, (rows, columns), strides, offset))
        wanted = view(words, (rows, columns), strides, offset)
        assert np.array_equal(filled(value, 0, rows), wanted)


def test_a_block_in_the_middle_of_a_wider_one(tmp_path: Path) -> None:
    """`out` may have any strides, as it has when columns are put together."""
    value, wanted = _matrix(tmp_path / "t", 6, 4)
    wide = np.zeros((6, 10), np.uint16)
    value.fill(wide[:, 3:7], 0, PlainContext(value.scratch_bytes(6)))
    assert np.array_equal(wide[:, 3:7], wanted)
    assert not wide[:, :3].any()
    assert not wide[:, 7:].any()


@pytest.mark.parametrize("axis", [0, 1])
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), cut=st.integers(0, 29))
@some
def test_concat(axis: int, sizes: list[int], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = [
            _matrix(Path(folder) / f"{i}", *((n, 4) if axis == 0 else (4, n)), seed=i)
            for i, n in enumerate(sizes)
        ]
        value = Concat(axis, tuple(read for read, _ in made))
        wanted = np.concatenate([m for _, m in made], axis)
        assert value.shape == wanted.shape
        start = cut % value.rows
        assert np.array_equal(filled(value, start, value.rows), wanted[start:])
        assert np.array_equal(filled(value, 0, start + 1), wanted[: start + 1])


def test_copies_that_agree(tmp_path: Path) -> None:
    copies = [_matrix(tmp_path / f"{i}", 5, 3, seed=1) for i in range(3)]
    value = Agree("norm.weight", tuple(read for read, _ in copies))
    assert np.array_equal(filled(value, 1, 4), copies[0][1][1:4])


@pytest.mark.parametrize("at", [0, 7, 14])
def test_a_copy_that_differs_in_one_bit(at: int, tmp_path: Path) -> None:
    words = _storage(15)
    other = words.copy()
    other[at] ^= 1
    copies = tuple(
        Read(store(tmp_path / f"rank{i}", w, (5, 3), (3, 1))) for i, w in enumerate((words, other))
    )
    value = Agree("layers.1.norm", copies)
    with pytest.raises(BadInput) as caught:
        filled(value, 0, 5)
    for word in ("layers.1.norm", "rank0", "rank1", "differs"):
        assert word in str(caught.value)


def test_bits_that_compare_equal_as_numbers_still_differ(tmp_path: Path) -> None:
    """-0.0 and 0.0, and any NaN and itself: copies are compared as bits."""
    zero, minus, nan = (np.array([w] * 4, np.uint16) for w in (0, 0x8000, 0x7FC1))
    reads = [
        Read(store(tmp_path / f"{i}", w, (2, 2), (2, 1))) for i, w in enumerate((zero, minus, nan))
    ]
    assert filled(Agree("x", (reads[2], reads[2])), 0, 2).tolist() == [[0x7FC1] * 2] * 2
    with pytest.raises(BadInput):
        filled(Agree("x", (reads[0], reads[1])), 0, 2)


def test_halves_of_joined_shards(tmp_path: Path) -> None:
    """Two ranks of two heads each, rows in pairs -> four heads, rows in halves."""
    made = [_matrix(tmp_path / f"{i}", 8, 3, seed=i) for i in range(2)]
    value = ToHalves(Concat(0, tuple(read for read, _ in made)), 4)
    whole = np.concatenate([m for _, m in made])
    order = [h * 4 + j for h in range(4) for j in (0, 2, 1, 3)]
    assert value.granule == 4
    assert np.array_equal(filled(value, 0, 16), whole[order])
    assert np.array_equal(filled(value, 4, 12), whole[order][4:12])


def _nested(folder: Path, depth: int) -> Expr:
    parts = tuple(
        Agree("x", tuple(_matrix(folder / f"{i}-{j}", 64, 512, seed=i)[0] for j in range(2)))
        for i in range(depth)
    )
    return ToHalves(Concat(1, parts), 8)


def test_scratch_bytes_are_enough_and_not_generous(tmp_path: Path) -> None:
    value = _nested(tmp_path, 3)
    asked = value.scratch_bytes(64)
    out = np.empty((64, value.columns), np.uint16)
    value.fill(out, 0, PlainContext(asked))
    assert asked <= 3 * out.nbytes


def test_the_arena_raises_rather_than_growing() -> None:
    from llamatools.dtypes import BF16

    arena = Arena(1 << 20)
    with arena.take(1 << 9, 1 << 10, BF16), pytest.raises(MemoryError, match="scratch memory"):
        arena.take(1 << 9, 1 << 10, BF16).__enter__()  # and 64 KiB for alignment are not enough
    with arena.take(1 << 9, 1 << 10, BF16) as again:
        assert again.shape == (512, 1024)


def test_arena_blocks_do_not_overlap() -> None:
    from llamatools.dtypes import F32

    arena = Arena(1 << 12)
    with arena.take(3, 5, F32) as a, arena.take(7, 3, F32) as b:
        a[...], b[...] = 1, 2
        assert (a == 1).all()
        assert a.ctypes.data % 4 == b.ctypes.data % 4 == 0
        with arena.take(2, 2, F32) as c:
            c[...] = 3
        assert (b == 2).all()


def test_descriptions_name_files_and_steps(tmp_path: Path) -> None:
    assert _nested(tmp_path, 2).describe() == (
        "halves[8](columns(equal(0-0:0-0, 0-1:0-1), equal(1-0:1-0, 1-1:1-1)))"
    )
