"""Edits of tensors: naive results, the same bits in any blocks, sums that have no order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamatools.containers.base import InputFile, StoredTensor
from llamatools.dtypes import BY_TORCH
from llamatools.expr.bits import bits_dtype
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr, Read
from llamatools.plan.passes.edits import (
    Added,
    ColumnLengths,
    Edit,
    LowRank,
    PatchedRows,
    Replaced,
    RowLengths,
    tile_rows,
    tiles,
    weighted,
)
from llamatools.plan.passes.exactsum import exact, rounded
from llamatools.plan.passes.merge import Merged, lost_share

ROWS, COLUMNS, RANK = 300, 2100, 5
"""Several tiles, and a last one that is not whole."""


class Store:
    """Tensors in plain files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, t: torch.Tensor) -> Expr:
        self._count += 1
        path = self._folder / str(self._count)
        path.write_bytes(t.contiguous().view(torch.uint8).numpy().tobytes())
        dtype = BY_TORCH[str(t.dtype).removeprefix("torch.")]
        strides = tuple(t.contiguous().stride())
        return Read(StoredTensor("t", dtype, tuple(t.shape), InputFile(path), 0, strides))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def computed(value: Merged, height: int) -> tuple[torch.Tensor, dict[str, int]]:
    """All rows in blocks of so many, with exactly the scratch memory asked for."""
    out = np.empty((value.rows, value.columns), bits_dtype(value.dtype))
    notes: dict[str, int] = {}

    class Noting(PlainContext):
        def note(self, key: str, counts: object) -> None:
            for what, n in dict(counts).items():  # type: ignore[call-overload]
                notes[what] = notes.get(what, 0) + n

    ctx = Noting(value.scratch_bytes(height))
    for start in range(0, value.rows, height):
        value.fill(out[start : start + height], start, ctx)
    return torch.from_numpy(out).view(getattr(torch, value.dtype.torch)), notes


@dataclass(frozen=True)
class Case:
    edits: Callable[[Store, Expr], tuple[Edit, ...]]
    naive: Callable[[torch.Tensor], torch.Tensor]


LEFT, RIGHT = draw(ROWS, RANK, seed=1), draw(RANK, COLUMNS, seed=2)
OTHER, LENGTHS = draw(ROWS, COLUMNS, seed=3), draw(ROWS, seed=4).abs() + 1
WIDTHS, NEW = draw(COLUMNS, seed=5).abs() + 1, draw(2, COLUMNS, seed=6)


def product(w: torch.Tensor) -> torch.Tensor:
    return w + 0.5 * LEFT.double() @ RIGHT.double()


def patched(w: torch.Tensor) -> torch.Tensor:
    return w.index_copy(0, torch.tensor([299, 7]), NEW.double())


CASES = {
    "low rank": Case(lambda s, x: (LowRank(s(LEFT), s(RIGHT), 0.5),), product),
    "added": Case(lambda s, x: (Added(s(OTHER), -2.0),), lambda w: w - 2 * OTHER.double()),
    "replaced": Case(lambda s, x: (Replaced(s(OTHER)),), lambda w: OTHER.double()),
    "rows": Case(lambda s, x: (PatchedRows((299, 7), s(NEW)),), patched),
    "row lengths": Case(
        lambda s, x: (LowRank(s(LEFT), s(RIGHT), 0.5), RowLengths(s(LENGTHS))),
        lambda w: torch.nn.functional.normalize(product(w), dim=1) * LENGTHS.double()[:, None],
    ),
    "column lengths": Case(
        lambda s, x: (
            (low := LowRank(s(LEFT), s(RIGHT), 0.5)),
            ColumnLengths(s(WIDTHS), x, (low,)),
        ),
        lambda w: torch.nn.functional.normalize(product(w), dim=0) * WIDTHS.double(),
    ),
    "weighted": Case(
        lambda s, x: (
            *weighted(0.25, (LowRank(s(LEFT), s(RIGHT), 2.0),)),
            *weighted(0.5, (Replaced(s(OTHER)), RowLengths(s(LENGTHS)))),
        ),
        lambda w: (
            product(w)
            + 0.5
            * (torch.nn.functional.normalize(OTHER.double(), dim=1) * LENGTHS.double()[:, None] - w)
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_are_the_naive_ones_rounded_once(
    case: Case, dtype: torch.dtype, store: Store
) -> None:
    base = draw(ROWS, COLUMNS, dtype=dtype)
    x = store(base)
    found, _ = computed(Merged(x, "w", case.edits(store, x), x.dtype), tile_rows(COLUMNS))
    exactly = case.naive(base.double())
    # The smallest step of the type at each number, halved: what rounding may take, and no more.
    step = torch.finfo(dtype).eps * exactly.abs().clamp_min(1e-3)
    assert bool(((found.double() - exactly).abs() <= 0.51 * step).all())
    if dtype == torch.float32:
        assert (
            torch.equal(found, exactly.float())
            or float((found != exactly.float()).double().mean()) < 1e-6
        )


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_blocks_do_not_change_a_bit(case: Case, store: Store) -> None:
    x = store(draw(ROWS, COLUMNS, dtype=torch.bfloat16))
    value = Merged(x, "w", case.edits(store, x), x.dtype)
    tile = value.granule
    assert tile == tile_rows(COLUMNS) == 64
    results = [computed(value, height) for height in (tile, 2 * tile, 4 * tile, 512)]
    for found, notes in results[1:]:
        assert torch.equal(found.view(torch.int16), results[0][0].view(torch.int16))
        assert notes == results[0][1]


@pytest.mark.parametrize("rank", [8, 32, 33, 256])
def test_nearest_numbers_whatever_the_rank(rank: int, store: Store) -> None:
    """fp32 sums of hundreds of products would be off by enough to show in bf16."""
    base = draw(512, 2048, dtype=torch.bfloat16)
    left, right = draw(512, rank, seed=1), draw(rank, 2048, seed=2)
    x = store(base)
    value = Merged(x, "w", (LowRank(store(left), store(right), 0.5),), x.dtype)
    found, _ = computed(value, 512)
    exactly = base.double() + 0.5 * left.double() @ right.double()
    above, below = (torch.nextafter(found, found + sign) for sign in (1, -1))
    mine = (found.double() - exactly).abs()
    better = [(n.double() - exactly).abs() < mine for n in (above, below)]
    assert float((better[0] | better[1]).double().mean()) <= 1e-4


def test_what_rounding_takes_is_told(store: Store) -> None:
    """A change of a thousandth of the weights is mostly lost in bf16, and not in fp32."""
    base = draw(ROWS, COLUMNS, dtype=torch.bfloat16)
    change = draw(ROWS, COLUMNS, seed=9) * 1e-3
    x = store(base)
    value = Merged(x, "w", (Added(store(change)),), x.dtype)
    found, notes = computed(value, 64)
    wanted = (found.double() - base.double() - change.double()).norm() / change.double().norm()
    share = lost_share(notes)
    assert share is not None
    assert share == pytest.approx(float(wanted), rel=1e-4)
    assert 0.5 < share < 1


def test_what_is_no_number_is_counted(store: Store) -> None:
    base = draw(4, 8, dtype=torch.float16)
    change = torch.zeros(4, 8)
    change[1, 2], change[3, 3] = 1e6, -1e6
    x = store(base)
    _, notes = computed(Merged(x, "w", (Added(store(change)),), x.dtype), tile_rows(8))
    assert notes["not_finite"] == 2


@given(st.integers(0, 5000), st.integers(1, 5000), st.integers(1, 1 << 20))
def test_tiles_cover_rows_once_and_lie_where_they_always_lie(
    start: int, count: int, columns: int
) -> None:
    height = tile_rows(columns)
    begin = start * height
    found = tiles(begin, begin + count, columns)
    assert found[0][0] == begin
    assert found[-1][1] == begin + count
    assert all(a[1] == b[0] and a[1] % height == 0 for a, b in pairwise(found))
    assert all(b - a <= height for a, b in found)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
)
def test_sums_are_exact_in_any_order(values: list[float]) -> None:
    total = sum(map(exact, values))
    assert total == sum(map(exact, reversed(values)))
    assert Fraction(total, 2**1074) == sum(map(Fraction, values), Fraction(0))
    if all(math.isfinite(v) for v in values) and len(values) < 2:
        assert rounded(total) == sum(values)
