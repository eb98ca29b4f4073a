"""Expressions that deltas are made of and applied with."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np

from llamatools.dtypes import F32, DType
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr, Unary, concat
from llamatools.expr.numbers import as_numbers, round_into

_CHUNK = 1 << 18
"""Elements computed at once."""


@dataclass(frozen=True)
class Zeros(Expr):
    """Rows of zeros, whose bits are zero in every type, as wide as another tensor's."""

    like: Expr
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.like.shape[1:])

    @property
    def dtype(self) -> DType:
        return self.like.dtype

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return ()

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        out[...] = 0

    def scratch_bytes(self, rows: int) -> int:
        return 0

    def describe(self) -> str:
        return f"zeros[{self.count}]"


def padded(x: Expr, rows: int) -> Expr:
    """A tensor with rows of zeros after its own, where it has fewer than `rows`."""
    more = (Zeros(x, rows - x.rows),) if rows > x.rows else ()
    return concat(0, (x, *more))


@dataclass(frozen=True)
class AnyRows(Unary):
    """`x`, of which any rows may be asked for: rows that belong together are read, and cut."""

    @property
    def granule(self) -> int:
        return 1

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        group = self.x.granule
        first = start // group * group
        stop = min(self.rows, -(-(start + len(out)) // group) * group)
        with ctx.scratch(stop - first, self.columns, self.dtype) as block:
            self.x.fill(block, first, ctx)
            np.copyto(out, block[start - first : start - first + len(out)])

    def scratch_bytes(self, rows: int) -> int:
        widest = min(self.rows, rows + 2 * self.x.granule)
        return widest * self.row_bytes + self.x.scratch_bytes(widest)

    def describe(self) -> str:
        return self.x.describe()


def any_rows(x: Expr) -> Expr:
    """An expression of which any rows may be asked for."""
    return x if x.granule == 1 else AnyRows(x)


@dataclass(frozen=True)
class Pair(Unary):
    """Base of what is made of two tensors of one shape."""

    y: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x, self.y)

    @property
    def granule(self) -> int:
        return lcm(self.x.granule, self.y.granule)


@dataclass(frozen=True)
class Xored(Pair):
    """The bits in which `x` differs from `y` of the same type; of those and `y`, `x` again."""

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.x.fill(out, start, ctx)
        with ctx.scratch(len(out), self.columns, self.y.dtype) as block:
            self.y.fill(block, start, ctx)
            np.bitwise_xor(out, block, out=out)

    def scratch_bytes(self, rows: int) -> int:
        second = rows * self.row_bytes + self.y.scratch_bytes(rows)
        return max(self.x.scratch_bytes(rows), second)

    def describe(self) -> str:
        return f"xor({self.x.describe()}, {self.y.describe()})"


@dataclass(frozen=True)
class Difference(Pair):
    """What is to be added to `x` for `y` to come out, in fp32.

    Where `x` is zero it is `y` itself, since no difference of zeros is minus zero.
    """

    @property
    def dtype(self) -> DType:
        return F32

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        with (
            ctx.scratch(len(out), self.columns, self.x.dtype) as before,
            ctx.scratch(len(out), self.columns, self.y.dtype) as after,
        ):
            self.x.fill(before, start, ctx)
            self.y.fill(after, start, ctx)
            height = self._height
            for i in range(0, len(out), height):
                self._subtract(before[i : i + height], after[i : i + height], out[i : i + height])

    def _subtract(self, before: Bits, after: Bits, out: Bits) -> None:
        wide = np.dtype(np.float64 if F32 in (self.x.dtype, self.y.dtype) else np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = as_numbers(before, self.x.dtype, wide), as_numbers(after, self.y.dtype, wide)
            d = y - x
            if not x.all():
                np.copyto(d, y, where=x == 0)
            round_into(d, F32, out)

    @property
    def _height(self) -> int:
        return max(1, _CHUNK // max(1, self.columns))

    def scratch_bytes(self, rows: int) -> int:
        blocks = rows * (self.x.row_bytes + self.y.row_bytes)
        numbers = min(rows, self._height) * self.columns * (3 * 8 + 4 + 1)
        return blocks + numbers + max(i.scratch_bytes(rows) for i in self.inputs)

    def describe(self) -> str:
        return f"{self.y.describe()} - {self.x.describe()}"


@dataclass(frozen=True)
class Compared(Pair):
    """`x`; the run is told how many of its elements are not `y`'s, bit for bit."""

    name: str

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.x.fill(out, start, ctx)
        with ctx.scratch(len(out), self.columns, self.y.dtype) as block:
            self.y.fill(block, start, ctx)
            ctx.note(self.name, {DIFFER: int(np.count_nonzero(out != block))})

    def scratch_bytes(self, rows: int) -> int:
        second = rows * (self.y.row_bytes + self.columns) + self.y.scratch_bytes(rows)
        return max(self.x.scratch_bytes(rows), second)

    def describe(self) -> str:
        return self.x.describe()


DIFFER = "differ"
"""Under which Compared notes its count."""
