"""Merging: a tensor with its fine-tunes' edits, computed wide and rounded once.

The report says how much of the change the rounding took: a change much smaller than the steps of
bf16 vanishes in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, lcm, sqrt

import numpy as np

from llamatools.dtypes import F32, DType
from llamatools.errors import CheckFailed
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr, Unary
from llamatools.expr.numbers import Numbers, as_numbers, round_into
from llamatools.plan.passes.edits import Edit, memory_of, tile_rows, tiles
from llamatools.plan.passes.exactsum import exact, rounded
from llamatools.plan.plan import Plan


@dataclass(frozen=True)
class Merged(Unary):
    """`x` with edits, in type `to`. Sums are in fp64 for fp32 results, else in fp32.

    Statistics are noted under the tensor's name.
    """

    name: str
    edits: tuple[Edit, ...]
    to: DType

    @property
    def dtype(self) -> DType:
        return self.to

    @property
    def multiplies(self) -> bool:
        return True

    @property
    def granule(self) -> int:
        return lcm(self.x.granule, tile_rows(self.columns))

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        with ctx.scratch(len(out), self.columns, self.x.dtype) as block:
            self.x.fill(block, start, ctx)
            for first, stop in tiles(start, start + len(out), self.columns):
                here = slice(first - start, stop - start)
                self._merge(block[here], out[here], first, ctx)

    def _merge(self, before: Bits, after: Bits, start: int, ctx: Context) -> None:
        wide = np.dtype(np.float64 if self.to == F32 else np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # what comes of it is counted
            v = base = as_numbers(before, self.x.dtype, wide)
            for edit in self.edits:
                v = edit.apply(v, base, start, ctx)
            round_into(v, self.to, after)
        ctx.note(self.name, _counts(base, v, as_numbers(after, self.to, wide)))

    def scratch_bytes(self, rows: int) -> int:
        wide = 8 if self.to == F32 else 4
        tile = min(rows, tile_rows(self.columns))
        edits = memory_of(self.edits, tile, self.columns, wide)
        # Beside the edits' results: the base's numbers, the change, the error.
        return super().scratch_bytes(rows) + 3 * tile * self.columns * wide + edits

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x, *(i for e in self.edits for i in e.inputs))

    def describe(self) -> str:
        text = self.x.describe()
        for edit in self.edits:
            text = edit.describe(text)
        return f"{self.to}({text})"


def _counts(base: Numbers, exactly: Numbers, result: Numbers) -> dict[str, int]:
    """Squares of the change and of what rounding took from it; and what is no number any more."""
    counts = {"values": result.size}
    with np.errstate(invalid="ignore", over="ignore"):
        change = (exactly - base).ravel()
        error = (exactly - result).ravel()
        changed, lost = (float(np.dot(t, t)) for t in (change, error))
    if isfinite(changed) and isfinite(lost):
        return {**counts, "change": exact(changed), "lost": exact(lost)}
    # Before rounding, too: to bf16 some NaN become numbers.
    finite = np.isfinite(exactly) & np.isfinite(result)
    return {**counts, "not_finite": int(np.count_nonzero(~finite))}


def merges(plan: Plan) -> list[Merged]:
    """Every merged tensor of a plan."""
    return [step.value for step in plan.steps if isinstance(step.value, Merged)]


def named(value: Expr, name: str) -> Expr:
    """A value for another tensor: a tied model's head is merged as its embedding is."""
    return replace(value, name=name) if isinstance(value, Merged) else value


def check_finite(plan: Plan, counts: Mapping[str, Mapping[str, int]]) -> None:
    """CheckFailed where merged values are no numbers any more."""
    problems = [
        f"{m.name}: {n:,} merged values are NaN or beyond the range of {m.to}"
        for m in merges(plan)
        if (n := counts.get(m.name, {}).get("not_finite", 0))
    ]
    if problems:
        raise CheckFailed(
            problems[:20],
            hint="--dtype bf16 or fp32 has the range that fp16 lacks; NaN comes with the base",
        )


def lost_share(counts: Mapping[str, int]) -> float | None:
    """|rounding error| over |change|, as lengths of vectors; None where nothing changed."""
    change, lost = (counts.get(key, 0) for key in ("change", "lost"))
    return sqrt(rounded(lost) / rounded(change)) if change else None
