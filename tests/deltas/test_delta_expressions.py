"""Expressions of deltas: the same bits in any blocks, within the memory that they ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import some
from support.stored import filled, store

from llamatools.deltas.exprs import AnyRows, Compared, Difference, Xored, Zeros, any_rows, padded
from llamatools.dtypes import BF16, F32
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr, Read, ToHalves
from llamatools.expr.numbers import as_numbers

ROWS, COLUMNS, HEADS = 24, 5, 4


def matrix(path: Path, seed: int) -> Read:
    drawn = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))
    words = drawn.bfloat16().view(torch.int16).numpy().view(np.uint16)
    return Read(store(path / f"m{seed}", words.ravel(), (ROWS, COLUMNS), (COLUMNS, 1)))


def block(value: Expr, start: int, stop: int) -> np.ndarray:  # type: ignore[type-arg]
    """Rows of an expression, with exactly the scratch memory it asks for."""
    out = np.full((stop - start, value.columns), 0xAA, f"u{value.dtype.size}")
    value.fill(out, start, PlainContext(value.scratch_bytes(stop - start)))
    return out


@some
@given(st.integers(0, ROWS - 1), st.integers(1, ROWS))
def test_any_rows_of_heads(tmp_path_factory: pytest.TempPathFactory, start: int, n: int) -> None:
    folder = tmp_path_factory.mktemp("x")
    whole = ToHalves(matrix(folder, 1), HEADS)
    stop = min(ROWS, start + n)
    value = any_rows(whole)
    assert (value.granule, whole.granule) == (1, ROWS // HEADS)
    assert np.array_equal(filled(value, start, stop), filled(whole, 0, ROWS)[start:stop])
    assert any_rows(whole.x) is whole.x
    assert isinstance(value, AnyRows)


def test_padding(tmp_path: Path) -> None:
    x = matrix(tmp_path, 1)
    more = padded(x, ROWS + 3)
    assert more.shape == (ROWS + 3, COLUMNS)
    found = block(more, 0, ROWS + 3)
    assert np.array_equal(found[:ROWS], block(x, 0, ROWS))
    assert not found[ROWS:].any()
    assert padded(x, ROWS) is x
    assert Zeros(x, 3).dtype == BF16


@pytest.mark.parametrize("rows", [1, 6, 7, ROWS])
def test_blocks_of_two(rows: int, tmp_path: Path) -> None:
    x, y = matrix(tmp_path, 1), matrix(tmp_path, 2)
    for value in (Xored(x, y), Difference(x, y), Compared(x, y, "n")):
        whole = block(value, 0, ROWS)
        for start in range(0, ROWS, rows):
            stop = min(ROWS, start + rows)
            assert np.array_equal(block(value, start, stop), whole[start:stop])
    halves = ToHalves(x, HEADS)
    assert Xored(halves, ToHalves(y, 6)).granule == 12


def test_the_third_of_two(tmp_path: Path) -> None:
    x, y = matrix(tmp_path, 1), matrix(tmp_path, 2)
    assert np.array_equal(block(Xored(Xored(x, y), y), 0, ROWS), block(x, 0, ROWS))


def test_differences_lead_there(tmp_path: Path) -> None:
    x, y = matrix(tmp_path, 1), matrix(tmp_path, 2)
    d = Difference(x, y)
    assert d.dtype == F32
    wide = np.dtype(np.float32)
    sums = as_numbers(block(x, 0, ROWS), BF16, wide) + block(d, 0, ROWS).view(np.float32)
    assert np.array_equal(sums, as_numbers(block(y, 0, ROWS), BF16, wide))


class Counting(PlainContext):
    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.counts: dict[str, dict[str, int]] = {}

    def note(self, key, counts):  # type: ignore[no-untyped-def]
        self.counts[key] = dict(counts)


def test_comparing_counts_elements(tmp_path: Path) -> None:
    x, y = matrix(tmp_path, 1), matrix(tmp_path, 2)
    value = Compared(x, y, "n")
    ctx = Counting(value.scratch_bytes(ROWS))
    value.fill(np.empty((ROWS, COLUMNS), np.uint16), 0, ctx)
    wanted = np.count_nonzero(block(x, 0, ROWS) != block(y, 0, ROWS))
    assert ctx.counts == {"n": {"differ": wanted}}
