"""Other rows for an embedding or a head, as another tokenizer's vocabulary needs them.

A new row is an old one, bit for bit; or the mean of some old ones; or the mean of all.

Means are added up in an order that is fixed here, so that no bit depends on blocks, threads or
the processor. It is the order in which torch's `mean(0)` adds full vectors: sums of 16 rows, of
these sums again 16, and so on. So `rows.to(torch.float32).mean(0).to(dtype)` gives the same bits
wherever rows are a multiple of 32 elements wide and there are 2**19 or fewer, and four rows at
any width; what is left over at the end of other widths torch adds in an order of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llamatools.dtypes import F32, DType
from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.nodes import Context, Unary

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 1 << 20
"""Read at once for the mean of all rows; results do not depend on it."""
_LEVELS, _FAN_IN = 4, 16
_TEMPORARIES = 16 * 8
"""Bytes per column that torch may hold: the sums of all levels, and what rounding takes."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowTable:
    """For each new row the old rows it comes from: one: a copy; several: their mean; none: the
    mean of all. Those of new row `i` are rows[starts[i]:starts[i + 1]].
    """

    starts: Indices
    rows: Indices

    def __post_init__(self) -> None:
        for name in ("starts", "rows"):
            held = np.array(getattr(self, name), np.int64)
            held.setflags(write=False)
            object.__setattr__(self, name, held)
        s = self.starts
        if not len(s) or s[0] != 0 or s[-1] != len(self.rows) or (np.diff(s) < 0).any():
            raise ValueError("a row table's starts must rise from 0 to the number of its rows")
        if len(self.rows) and self.rows.min() < 0:
            raise ValueError(f"old row {self.rows.min()} in a row table: rows count from 0")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowTable):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.rows, other.rows)

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.rows.tobytes()))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sources(self, row: int) -> Indices:
        """The old rows of a new one."""
        return self.rows[self.starts[row] : self.starts[row + 1]]

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """How many rows are copied, are the mean of several, are the mean of all."""
        sizes = np.diff(self.starts)
        return int((sizes == 1).sum()), int((sizes > 1).sum()), int((sizes == 0).sum())

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """New rows start .. stop as runs (first, past the last, old row the first is a copy of).

        The rows of a run are copies of consecutive old rows. What is no copy stands alone, as -1.
        """
        copied = np.diff(self.starts[start : stop + 1]) == 1
        origin = np.full(stop - start, -1)
        origin[copied] = self.rows[self.starts[start:stop][copied]]
        begins = np.ones(stop - start, bool)
        begins[1:] = (np.diff(origin) != 1) | (origin[:-1] < 0)
        for a, b in pairwise([*np.flatnonzero(begins).tolist(), stop - start]):
            yield start + a, start + b, int(origin[a])


def row_table(sources: Iterable[Sequence[int]]) -> RowTable:
    """A table from the old rows of each new row."""
    starts, rows = array("q", [0]), array("q")
    for old in sources:
        rows.extend(old)
        starts.append(len(rows))
    return RowTable(np.array(starts, np.int64), np.array(rows, np.int64))


@dataclass(frozen=True)
class NewRows(Unary):
    """The rows of `x` that a table names.

    A mean of several rows is taken in fp32, as most would; in fp64 only where the rows are fp32
    themselves. The mean of all is taken in fp64. Either is then rounded to the type of the rows
    once, to nearest, ties to even.
    """

    name: str
    table: RowTable

    def __post_init__(self) -> None:
        _, averaged, mean = self.table.counts
        if self.x.granule != 1:
            raise ValueError(f"{self.name}: rows that belong together cannot be chosen singly")
        if len(self.table.rows) and self.table.rows.max() >= self.x.rows:
            new = int(np.searchsorted(self.table.starts, self.table.rows.argmax(), "right")) - 1
            raise ValueError(
                f"{self.name}: row {new} comes from row {self.table.rows.max()}, "
                f"but there are {self.x.rows}"
            )
        if mean and not self.x.rows:
            raise ValueError(f"{self.name}: there is no mean of no rows")
        if (averaged or mean) and not self.dtype.convertible:
            raise ValueError(f"{self.name}: no mean is taken of {self.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.table), *self.x.shape[1:])

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        for first, stop, old in self.table.runs(start, start + len(out)):
            rows = out[first - start : stop - start]
            if old >= 0:
                self.x.fill(rows, old, ctx)
            elif len(sources := self.table.sources(first)):
                rows[...] = self._mean_of(sources, ctx)
            else:
                rows[...] = ctx.once(self, lambda: self._mean_of_all(ctx))

    def _mean_of(self, sources: Indices, ctx: Context) -> Bits:
        mean = _Mean(self.columns, fp64=self.dtype == F32)
        with ctx.scratch(1, self.columns, self.dtype) as row:
            for old in sources.tolist():
                self.x.fill(row, old, ctx)
                mean.add(row, self.dtype)
        return mean.rounded(self.dtype)

    def _mean_of_all(self, ctx: Context) -> Bits:
        mean = _Mean(self.columns, fp64=True)
        with ctx.scratch(self._chunk, self.columns, self.dtype) as chunk:
            for start in range(0, self.x.rows, self._chunk):
                rows = chunk[: self.x.rows - start]
                self.x.fill(rows, start, ctx)
                mean.add(rows, self.dtype)
        return mean.rounded(self.dtype)

    @property
    def _chunk(self) -> int:
        return min(self.x.rows, max(1, _CHUNK_BYTES // max(1, self.row_bytes)))

    def scratch_bytes(self, rows: int) -> int:
        copied, averaged, mean = self.table.counts
        needs = [self.x.scratch_bytes(rows)] if copied else [0]
        for height in [1] * bool(averaged) + [self._chunk] * bool(mean):
            read = height * self.row_bytes + self.x.scratch_bytes(height)
            needs.append(read + self.columns * _TEMPORARIES)
        return max(needs)

    def describe(self) -> str:
        copied, averaged, mean = self.table.counts
        counts = f"{copied} copied, {averaged} averaged, {mean} mean"
        return f"rows[{len(self.table)}: {counts}]({self.x.describe()})"


class _Mean:
    """A mean of rows that are added one after the other, as the module's docstring says."""

    def __init__(self, columns: int, *, fp64: bool) -> None:
        import torch

        wide = torch.float64 if fp64 else torch.float32
        self._sums = [torch.zeros(columns, dtype=wide) for _ in range(_LEVELS)]
        self._count = 0

    def add(self, rows: Bits, dtype: DType) -> None:
        import torch

        for row in torch.from_numpy(rows).view(getattr(torch, dtype.torch)):
            self._sums[0] += row
            self._count += 1
            for level in range(1, _LEVELS):
                if self._count % _FAN_IN**level:
                    break
                self._sums[level] += self._sums[level - 1]
                self._sums[level - 1].zero_()

    def rounded(self, dtype: DType) -> Bits:
        """The mean's bits. A NaN is always the same one."""
        import torch

        mean = self._sums[0]
        for more in self._sums[1:]:
            mean += more
        mean /= self._count
        if mean.dtype == torch.float64 and dtype != F32:
            mean = _to_odd(mean)  # torch goes from fp64 to 16 bits by way of fp32: rounds twice
        out = mean.to(getattr(torch, dtype.torch))
        out[mean.isnan()] = float("nan")
        bits: Bits = out.view(torch.uint8).numpy().view(bits_dtype(dtype))
        return bits


def _to_odd(wide: torch.Tensor) -> torch.Tensor:
    """fp64 to fp32; what is not exact goes to the neighbour whose last bit is 1.

    So no value becomes a tie that was none, and rounding the result rounds `wide`.
    """
    import torch

    near = wide.to(torch.float32)
    back = near.to(torch.float64)
    bits = near.view(torch.int32)  # sign and magnitude: one less is one step towards zero
    bits -= (back.abs() > wide.abs()).to(torch.int32)
    bits |= (back != wide).to(torch.int32)  # a NaN is unequal, and stays one
    return near
