"""Edits: what a fine-tune does to one tensor, as data; each knows how to do it to a few rows.

A tensor is merged in tiles of whole rows, in fp32 or fp64. An edit takes a tile's numbers and
returns others, of the type it was given. It never changes what it was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatools.expr.nodes import Context, Expr
from llamatools.expr.numbers import Numbers, read_numbers

_F64 = np.dtype(np.float64)
_FP32_RANK = 32

_TILE = 1 << 18
"""Elements computed at once: few enough to stay in a core's cache, from widening to rounding."""


def tile_rows(columns: int) -> int:
    """Rows computed at once; a power of two that follows from the shape alone.

    Matrix products may round differently for another number of rows, so the tiles of a tensor are
    the same whatever blocks it is streamed in.
    """
    return 1 << max(0, (_TILE // max(1, columns)).bit_length() - 1)


def tiles(start: int, stop: int, columns: int) -> list[tuple[int, int]]:
    """The tiles that rows start .. stop consist of."""
    height = tile_rows(columns)
    edges = [start, *range((start // height + 1) * height, stop, height), stop]
    return [(a, b) for a, b in pairwise(edges) if a < b]


@dataclass(frozen=True)
class Edit(ABC):
    """Base of all edits."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Expr, ...]:
        """What it reads besides the tensor it edits."""

    @abstractmethod
    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        """The edited rows start .. start + len(v). `base`: the rows before any edit."""

    @abstractmethod
    def describe(self, x: str) -> str:
        """The edit of `x` in one line, for people."""

    def memory(self, rows: int, columns: int, wide: int) -> int:
        """Bytes it takes for a tile, its result included, at `wide` bytes a number."""
        return rows * columns * wide + sum(
            rows * i.columns * wide + i.scratch_bytes(rows) + rows * i.row_bytes
            for i in self.inputs
        )


@dataclass(frozen=True)
class LowRank(Edit):
    """x + scale · left · right, with left (rows, r) and right (r, columns)."""

    left: Expr
    right: Expr
    scale: float

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.left, self.right)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        wide = self._wide(v.dtype)
        right: Numbers = ctx.once(self, lambda: self._scaled_right(ctx, wide))
        left = read_numbers(self.left, start, start + len(v), ctx, wide)
        product: Numbers = left @ right
        product += v
        return product.astype(v.dtype, copy=False)

    def _wide(self, wide: np.dtype[Any]) -> np.dtype[Any]:
        """Sums of many products are taken in fp64, lest their errors show after rounding."""
        return _F64 if self.right.rows > _FP32_RANK else wide

    def _scaled_right(self, ctx: Context, wide: np.dtype[Any]) -> Numbers:
        right = read_numbers(self.right, 0, self.right.rows, ctx, _F64)
        right *= self.scale
        return right.astype(wide, copy=False)

    def describe(self, x: str) -> str:
        return f"{x} + {self.scale:g} * {self.left.describe()} @ {self.right.describe()}"

    def memory(self, rows: int, columns: int, wide: int) -> int:
        wide = self._wide(np.dtype(f"f{wide}")).itemsize
        right = self.right.rows * (columns * (8 + wide) + self.right.row_bytes)
        left = rows * (self.left.columns * wide + self.left.row_bytes)
        inner = max(self.left.scratch_bytes(rows), self.right.scratch_bytes(self.right.rows))
        return 2 * rows * columns * wide + left + right + inner


@dataclass(frozen=True)
class Added(Edit):
    """x + scale · y, with y of the shape of x; beyond y's rows, x as it is."""

    y: Expr
    scale: float = 1.0

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.y,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        y = read_numbers(self.y, start, start + len(v), ctx, v.dtype)
        y *= v.dtype.type(self.scale)
        y += v
        return y

    def describe(self, x: str) -> str:
        return f"{x} + {self.scale:g} * {self.y.describe()}"


@dataclass(frozen=True)
class Replaced(Edit):
    """y in place of x."""

    y: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.y,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        return read_numbers(self.y, start, start + len(v), ctx, v.dtype)

    def describe(self, x: str) -> str:
        return self.y.describe()


@dataclass(frozen=True)
class PatchedRows(Edit):
    """x with some of its rows replaced: row indices[j] by row j of `rows`."""

    indices: tuple[int, ...]
    rows: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.rows,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        out: Numbers = v.copy()
        first, last = np.searchsorted(self._sorted, (start, start + len(v)))
        for j in self._order[first:last].tolist():
            row = read_numbers(self.rows, j, j + 1, ctx, v.dtype)
            out[self.indices[j] - start] = row[0]
        return out

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Positions in `indices`, by the row that stands there."""
        return np.argsort(np.array(self.indices, np.int64), kind="stable")

    @cached_property
    def _sorted(self) -> NDArray[np.int64]:
        return np.array(self.indices, np.int64)[self._order]

    def describe(self, x: str) -> str:
        return f"{x} with {len(self.indices)} rows of {self.rows.describe()}"


@dataclass(frozen=True)
class RowLengths(Edit):
    """Every row of x scaled to the length that `lengths` states (DoRA of linear layers)."""

    lengths: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.lengths,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        lengths = read_numbers(self.lengths, start, start + len(v), ctx, _F64)
        norms = np.sqrt(np.square(v, dtype=_F64).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros has no direction
            factors = (lengths / norms).astype(v.dtype)
            return np.asarray(v * factors)

    def describe(self, x: str) -> str:
        return f"rows({x}) to lengths {self.lengths.describe()}"

    def memory(self, rows: int, columns: int, wide: int) -> int:
        return super().memory(rows, columns, wide) + rows * columns * 8


@dataclass(frozen=True)
class ColumnLengths(Edit):
    """Every column of x scaled to the length that `lengths` states (DoRA of embeddings).

    A column's norm takes all rows, so they are computed once before the first tile: `x` with the
    edits `before` this one.
    """

    lengths: Expr
    x: Expr
    before: tuple[Edit, ...]

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.lengths,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        factors: Numbers = ctx.once(self, lambda: self._factors(ctx, v.dtype))
        with np.errstate(invalid="ignore"):
            return np.asarray(v * factors)

    def _factors(self, ctx: Context, wide: np.dtype[Any]) -> Numbers:
        """(1, columns): the wanted length over the length there is."""
        squares = np.zeros(self.x.columns)
        for start, stop in tiles(0, self.x.rows, self.x.columns):
            base = v = read_numbers(self.x, start, stop, ctx, wide)
            for edit in self.before:
                v = edit.apply(v, base, start, ctx)
            squares += np.square(v, dtype=_F64).sum(axis=0)
        lengths = read_numbers(self.lengths, 0, self.lengths.rows, ctx, _F64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((lengths.reshape(1, -1) / np.sqrt(squares)).astype(wide))

    def describe(self, x: str) -> str:
        return f"columns({x}) to lengths {self.lengths.describe()}"

    def memory(self, rows: int, columns: int, wide: int) -> int:
        tile = min(self.x.rows, tile_rows(columns))
        first = tile * (self.x.row_bytes + columns * (wide + 2 * 8)) + self.x.scratch_bytes(tile)
        before = memory_of(self.before, tile, columns, wide)
        vectors = self.lengths.rows * (self.lengths.row_bytes + 4 * 8)
        return rows * columns * wide + first + before + vectors


@dataclass(frozen=True)
class Weighted(Edit):
    """x + weight · (edited base - base): a part of what some edits do to the base alone."""

    weight: float
    edits: tuple[Edit, ...]

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return tuple(i for e in self.edits for i in e.inputs)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        edited = base
        for edit in self.edits:
            edited = edit.apply(edited, base, start, ctx)
        change = edited - base
        change *= v.dtype.type(self.weight)
        change += v
        return change

    def describe(self, x: str) -> str:
        inner = "base"
        for edit in self.edits:
            inner = edit.describe(inner)
        return f"{x} + {self.weight:g} * ({inner} - base)"

    def memory(self, rows: int, columns: int, wide: int) -> int:
        return 2 * rows * columns * wide + memory_of(self.edits, rows, columns, wide)


def memory_of(edits: Sequence[Edit], rows: int, columns: int, wide: int) -> int:
    """Bytes that edits take one after the other, at most.

    One ColumnLengths computes its factors at a time; what it holds of those before is in its own.
    """
    needs = [(isinstance(e, ColumnLengths), e.memory(rows, columns, wide)) for e in edits]
    plain = sum(n for column, n in needs if not column)
    return plain + max((n for column, n in needs if column), default=0)


def weighted(weight: float, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """A part of what edits do. Sums take the weight into their scale, which loses nothing."""
    if weight == 1.0 and all(isinstance(e, LowRank | Added) for e in edits):
        return edits
    if all(isinstance(e, LowRank | Added) for e in edits):
        return tuple(
            replace(e, scale=e.scale * weight) for e in edits if isinstance(e, LowRank | Added)
        )
    return (Weighted(weight, edits),)
