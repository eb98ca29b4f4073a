"""Casting: a pass that changes values, and counts what it changed.

The arithmetic is torch's, block by block; round to nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamatools.dtypes import DType
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr, Unary
from llamatools.plan.passes.merge import Merged
from llamatools.plan.plan import Plan

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 18
"""Elements cast at once: bounds torch's temporaries to a few megabytes."""
_TEMPORARIES = 8 * 8 * _CHUNK


@dataclass(frozen=True)
class Cast(Unary):
    """`x` in another floating-point type. Statistics are noted under the tensor's name."""

    name: str
    to: DType

    @property
    def dtype(self) -> DType:
        return self.to

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        import torch

        with ctx.scratch(len(out), self.columns, self.x.dtype) as block:
            self.x.fill(block, start, ctx)
            source = torch.from_numpy(block).view(getattr(torch, self.x.dtype.torch)).reshape(-1)
            target = torch.from_numpy(out).view(getattr(torch, self.to.torch)).view(-1)
            for at in range(0, source.numel(), _CHUNK):
                before, after = source[at : at + _CHUNK], target[at : at + _CHUNK]
                after.copy_(before)
                # torch gives NaN other bits at the end of a run than within; ours are always same.
                after[before.isnan()] = float("nan")
                ctx.note(self.name, cast_counts(before, after))

    def scratch_bytes(self, rows: int) -> int:
        return super().scratch_bytes(rows) + _TEMPORARIES

    def describe(self) -> str:
        return f"{self.to}({self.x.describe()})"


def cast_counts(before: torch.Tensor, after: torch.Tensor) -> dict[str, int]:
    """How many values a cast made infinite, made zero, or changed in any way."""
    import torch

    # Both sides widen to float32 exactly, so the comparison there is exact. NaN stays NaN.
    a, b = before.to(torch.float32), after.to(torch.float32)
    changed = (a != b) & ~(a.isnan() & b.isnan())
    overflow = b.isinf() & a.isfinite()
    flushed = (b == 0) & (a != 0)
    return {
        "values": a.numel(),
        "changed": int(changed.sum()),
        "overflowed": int(overflow.sum()),
        "flushed_to_zero": int(flushed.sum()),
    }


def cast(name: str, value: Expr, to: DType) -> Expr:
    """`value` in type `to`; itself where it already is.

    What was to be rounded to another type is rounded to `to` instead, and so only once.
    """
    if isinstance(value, Merged):
        return replace(value, to=to)
    if isinstance(value, Cast):
        return cast(name, value.x, to)
    return value if value.dtype == to else Cast(value, name, to)


def casts(plan: Plan) -> list[Cast]:
    """Every cast a plan makes."""
    return [step.value for step in plan.steps if isinstance(step.value, Cast)]
