"""Matrices that are stored as the blocks on their diagonal alone."""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Unary


@dataclass(frozen=True)
class BlockDiagonal(Unary):
    """`x` (rows, columns / count): each run of rows / count rows has columns of its own.

    The rest is zero, whose bits are zero in every type.
    """

    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.x.rows, self.x.columns * self.count)

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        out[...] = 0
        height, width = self.x.rows // self.count, self.x.columns
        with ctx.scratch(len(out), width, self.dtype) as block:
            self.x.fill(block, start, ctx)
            for i, row in enumerate(block):
                at = (start + i) // height * width
                out[i, at : at + width] = row

    def describe(self) -> str:
        return f"diagonal[{self.count}]({self.x.describe()})"
