"""Merging: a tensor with its fine-tunes' edits, computed wide and rounded once.

The report says how much of the change the rounding took: a change much smaller than the steps of
bf16 vanishes in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, lcm, sqrt
from typing import TYPE_CHECKING

from llamatools.dtypes import F32, DType
from llamatools.errors import CheckFailed
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr, Unary
from llamatools.plan.passes.edits import Edit, as_numbers, tile_rows, tiles
from llamatools.plan.passes.exactsum import exact, rounded
from llamatools.plan.plan import Plan

if TYPE_CHECKING:
    import torch


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
    def computes(self) -> bool:
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
        import torch

        wide = torch.float64 if self.to == F32 else torch.float32
        v = base = as_numbers(before, self.x.dtype, wide)
        for edit in self.edits:
            v = edit.apply(v, base, start, ctx)
        result = torch.from_numpy(after).view(getattr(torch, self.to.torch))
        result.copy_(v)
        ctx.note(self.name, _counts(base, v, result))

    def scratch_bytes(self, rows: int) -> int:
        wide = 8 if self.to == F32 else 4
        tile = min(rows, tile_rows(self.columns))
        edits = sum(e.memory(tile, self.columns, wide) for e in self.edits)
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


def _counts(base: torch.Tensor, exactly: torch.Tensor, result: torch.Tensor) -> dict[str, int]:
    """Squares of the change and of what rounding took from it; and what is no number any more."""
    import torch

    change = (exactly - base).view(-1)
    error = torch.sub(exactly, result).view(-1)
    changed, lost = (float(torch.dot(t, t)) for t in (change, error))
    counts = {"values": result.numel()}
    if isfinite(changed) and isfinite(lost):
        return {**counts, "change": exact(changed), "lost": exact(lost)}
    return {**counts, "not_finite": int((~torch.isfinite(result)).sum())}


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
