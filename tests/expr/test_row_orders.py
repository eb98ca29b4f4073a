"""Pairs and halves of a head's rows: inverse of each other, and each what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import many

from llamatools.expr.bits import Bits, halves_from_pairs, pairs_from_halves

HEADS, HALF, COLUMNS = st.integers(1, 9), st.integers(1, 8), st.integers(1, 5)


def _matrix(heads: int, half: int, columns: int) -> Bits:
    return np.arange(heads * 2 * half * columns, dtype=np.uint16).reshape(-1, columns)


@given(heads=HEADS, half=HALF, columns=COLUMNS)
@many
def test_each_undoes_the_other(heads: int, half: int, columns: int) -> None:
    x = _matrix(heads, half, columns)
    there, back = np.empty_like(x), np.empty_like(x)
    for f, g in ((halves_from_pairs, pairs_from_halves), (pairs_from_halves, halves_from_pairs)):
        f(x, there, 2 * half)
        g(there, back, 2 * half)
        assert np.array_equal(back, x)


@given(heads=HEADS, half=HALF, columns=COLUMNS)
@many
def test_halves_row_by_row(heads: int, half: int, columns: int) -> None:
    x = _matrix(heads, half, columns)
    out = np.empty_like(x)
    halves_from_pairs(x, out, 2 * half)
    for head in range(heads):
        for j in range(half):
            at = head * 2 * half
            assert np.array_equal(out[at + j], x[at + 2 * j])
            assert np.array_equal(out[at + half + j], x[at + 2 * j + 1])


@pytest.mark.parametrize("turn", [halves_from_pairs, pairs_from_halves])
def test_the_count_of_heads_matters(turn: object) -> None:
    """Eight heads' order is not two heads' order: a key must not be turned by query heads."""
    x = _matrix(8, 4, 3)
    one, other = np.empty_like(x), np.empty_like(x)
    turn(x, one, 8)  # type: ignore[operator]
    turn(x, other, 32)  # type: ignore[operator]
    assert not np.array_equal(one, other)
