"""What factors need that do not lie in their file as they are used: turned, padded, kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.nodes import Context, Unary


@dataclass(frozen=True)
class Held(Unary):
    """`x`, computed whole once and kept, so that any of its rows can be had.

    Factors are read in tiles that follow from the shape of the tensor they change, and granules of
    their own (a head's rows) need not fit into these. For small matrices alone.
    """

    @property
    def granule(self) -> int:
        return 1

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        whole = ctx.once(self, lambda: self._whole(ctx))
        np.copyto(out, whole[start : start + len(out)])

    def _whole(self, ctx: Context) -> Bits:
        kept = np.empty((self.rows, self.columns), bits_dtype(self.dtype))
        self.x.fill(kept, 0, ctx)
        return kept

    def scratch_bytes(self, rows: int) -> int:
        return self.x.nbytes + self.x.scratch_bytes(self.x.rows)

    def describe(self) -> str:
        return self.x.describe()


@dataclass(frozen=True)
class Transposed(Unary):
    """Columns of a small matrix as rows: read in one piece, which spares a read for each row."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.x.columns, self.x.rows)

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        with ctx.scratch(self.x.rows, self.x.columns, self.dtype) as whole:
            self.x.fill(whole, 0, ctx)
            np.copyto(out, whole.T[start : start + len(out)])

    def scratch_bytes(self, rows: int) -> int:
        return self.x.nbytes + self.x.scratch_bytes(self.x.rows)

    def describe(self) -> str:
        return f"transposed({self.x.describe()})"


@dataclass(frozen=True)
class Padded(Unary):
    """`x` with columns of zeros on both sides; the bits of zero are zero in every type."""

    before: int
    after: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.x.rows, self.before + self.x.columns + self.after)

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        stop = self.before + self.x.columns
        out[:, : self.before] = 0
        out[:, stop:] = 0
        self.x.fill(out[:, self.before : stop], start, ctx)

    def scratch_bytes(self, rows: int) -> int:
        return self.x.scratch_bytes(rows)

    def describe(self) -> str:
        return f"padded[{self.before}, {self.after}]({self.x.describe()})"
