"""What is done to a tensor besides adding the delta: new rows' starting values, and a sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from llamatools.dtypes import F32
from llamatools.expr.nodes import Context, Expr
from llamatools.expr.numbers import Numbers, read_numbers
from llamatools.plan.passes.cast import cast
from llamatools.plan.passes.edits import Edit
from llamatools.plan.passes.exactsum import exact
from llamatools.plan.passes.vocabulary import NewRows, row_table

SUM = "sum"
"""Under which Summed notes what it adds up, as `exact` numbers."""


@dataclass(frozen=True)
class NewRowsAre(Edit):
    """x with one row in place of each from `first` on."""

    first: int
    row: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.row,)

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        if start + len(v) <= self.first:
            return v
        out: Numbers = v.copy()
        out[max(0, self.first - start) :] = read_numbers(self.row, 0, 1, ctx, v.dtype)
        return out

    def describe(self, x: str) -> str:
        return f"{x} with {self.row.describe()} from row {self.first} on"


def mean_row(name: str, x: Expr) -> Expr:
    """The mean of all rows, in fp32: added up in fp64, and not rounded to the type of the rows."""
    return NewRows(cast(f"mean of {name}", x, F32), name, row_table([()]))


@dataclass(frozen=True)
class Summed(Edit):
    """x as it is; its sum is noted under the tensor's name."""

    name: str

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return ()

    def apply(self, v: Numbers, base: Numbers, start: int, ctx: Context) -> Numbers:
        with np.errstate(invalid="ignore", over="ignore"):
            total = float(v.sum(dtype=np.float64))
        if isfinite(total):  # what is not is noted by whoever rounds
            ctx.note(self.name, {SUM: exact(total)})
        return v

    def describe(self, x: str) -> str:
        return x

    def memory(self, rows: int, columns: int, wide: int) -> int:
        return 0
