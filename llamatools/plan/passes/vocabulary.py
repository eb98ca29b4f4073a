"""Another vocabulary's rows: each copied from an old row, averaged over several, or over all.

Copies move bits. Means are torch's, in float32 (in float64 for float32 rows), rounded once; the
mean over all rows is summed in float64, in pieces of a fixed size, so that it depends on nothing
but the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llamatools.dtypes import F32
from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.nodes import Context, Unary

if TYPE_CHECKING:
    import torch

_SUMMED = 256
"""Rows added up at once for the mean over all."""
_GATHERED = 64
"""Rows gathered at once for a mean over some; longer lists are summed in pieces."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowTable:
    """For each new row the old rows it is made of: `rows[starts[i]:starts[i + 1]]`.

    One is copied, several are averaged, none stands for all.
    """

    starts: Indices
    rows: Indices

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sources(self, i: int) -> Indices:
        return self.rows[self.starts[i] : self.starts[i + 1]]

    def counts(self) -> tuple[int, int, int]:
        """How many rows are copied, averaged over some, averaged over all."""
        lengths = np.diff(self.starts)
        copied, everything = int((lengths == 1).sum()), int((lengths == 0).sum())
        return copied, len(self) - copied - everything, everything


def row_table(sources: Iterable[Sequence[int]]) -> RowTable:
    lists = list(sources)
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(s) for s in lists], out=starts[1:])
    return RowTable(starts, np.fromiter((i for s in lists for i in s), np.int64))


@dataclass(frozen=True)
class NewRows(Unary):
    """Rows of `x`, an embedding or a head, for another vocabulary."""

    name: str
    table: RowTable = field(hash=False)

    def __post_init__(self) -> None:
        rows = self.table.rows
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.x.rows):
            raise ValueError(f"{self.name}: a row out of 0..{self.x.rows - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.table), *self.x.shape[1:])

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        at = 0
        while at < len(out):
            sources = self.table.sources(start + at)
            if len(sources) == 1:
                run = self._run(start + at, len(out) - at)
                self.x.fill(out[at : at + run], int(sources[0]), ctx)
                at += run
                continue
            out[at] = self._mean(sources, ctx) if len(sources) else self._mean_of_all(ctx)
            at += 1

    def _run(self, row: int, most: int) -> int:
        """How many rows from `row` on are copies of old rows that follow each other."""
        starts = self.table.starts[row : row + most + 1]
        lengths = np.diff(starts)
        first = self.table.rows[starts[0]]
        several = np.flatnonzero(lengths != 1)
        end = int(several[0]) if len(several) else len(lengths)
        old = self.table.rows[starts[0] : starts[0] + end]
        breaks = np.flatnonzero(old != first + np.arange(end))
        return int(breaks[0]) if len(breaks) else end

    def _mean(self, sources: Indices, ctx: Context) -> Bits:
        """The mean of some rows, as bits (columns,)."""
        import torch

        exact = torch.float64 if self.dtype is F32 else torch.float32
        if len(sources) <= _GATHERED:
            return self._round(self._rows(sources, ctx).to(exact).mean(0))
        total = torch.zeros(self.columns, dtype=torch.float64)
        for at in range(0, len(sources), _GATHERED):
            total += self._rows(sources[at : at + _GATHERED], ctx).to(torch.float64).sum(0)
        return self._round(total / len(sources))

    def _rows(self, sources: Indices, ctx: Context) -> torch.Tensor:
        """Old rows (n, columns) as numbers."""
        with ctx.scratch(len(sources), self.columns, self.dtype) as block:
            for i, row in enumerate(sources):
                self.x.fill(block[i : i + 1], int(row), ctx)
            return self._numbers(block).clone()

    def _mean_of_all(self, ctx: Context) -> Bits:
        return ctx.once(self, lambda: self._sum_up(ctx))

    def _sum_up(self, ctx: Context) -> Bits:
        import torch

        total = torch.zeros(self.columns, dtype=torch.float64)
        for start in range(0, self.x.rows, _SUMMED):
            size = min(_SUMMED, self.x.rows - start)
            with ctx.scratch(size, self.columns, self.dtype) as block:
                self.x.fill(block, start, ctx)
                total += self._numbers(block).to(torch.float64).sum(0)
        return self._round(total / self.x.rows)

    def _numbers(self, block: Bits) -> torch.Tensor:
        import torch

        return torch.from_numpy(block).view(getattr(torch, self.dtype.torch))

    def _round(self, mean: torch.Tensor) -> Bits:
        """One row of numbers as bits in the matrix's own type; NaN always the same bits."""
        import torch

        # From float64 straight to a 16-bit type torch goes by way of float32, which may round
        # twice; both roundings together are off by less than the order of a sum may be.
        row = mean.to(getattr(torch, self.dtype.torch))
        row[row.isnan()] = float("nan")
        bits: Bits = row.view(getattr(torch, f"int{8 * self.dtype.size}")).numpy()
        return bits.view(bits_dtype(self.dtype))

    def scratch_bytes(self, rows: int) -> int:
        # Copies fill a run of rows; means gather a few, and torch widens those twice at most.
        block = max(_SUMMED, _GATHERED)
        means = block * (self.x.row_bytes + 2 * 8 * self.columns)
        return means + max(self.x.scratch_bytes(rows), self.x.scratch_bytes(block))

    def describe(self) -> str:
        copied, averaged, everything = self.table.counts()
        return (
            f"rows[{copied} copied, {averaged} averaged, {everything} mean of all]"
            f"({self.x.describe()})"
        )
