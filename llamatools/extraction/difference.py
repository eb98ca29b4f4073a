"""The difference of two tensors, read in blocks and reckoned with wider than either is stored.

Numbers of 16 bits are subtracted in fp32, which holds nearly every such difference exactly; where
one side is fp32, both are in fp64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch

from llamatools.adapters.scan import is_finite
from llamatools.dtypes import F32, DType
from llamatools.engine.checksums import CheckedContext, RecordChecks
from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.nodes import Expr
from llamatools.extraction.crew import Crew
from llamatools.extraction.pairs import Pair

_BLOCK = 1 << 18
"""Elements of each tensor that are read at once."""


@dataclass(frozen=True)
class Measured:
    """What is known of a difference once all of it was read."""

    energy: float
    """The sum of its squares."""
    differs: bool
    """Some number is another; zeros of either sign are one number."""
    finite: bool
    """All numbers of both tensors are such, and so are the differences."""

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.energy + other.energy, self.differs or other.differs, self.finite and other.finite
        )


@dataclass(frozen=True)
class _Piece:
    start: int
    stop: int
    sides: str
    """Which of the two tensors have these rows: both, base or tuned."""


def wide_type(pair: Pair) -> torch.dtype:
    """The type that a pair's difference is held in."""
    return torch.float64 if F32 in (pair.base.dtype, pair.tuned.dtype) else torch.float32


def matrix(pair: Pair) -> torch.Tensor:
    """Uninitialised room for the difference of a pair, (rows, columns)."""
    return torch.empty(pair.base.rows, pair.base.columns, dtype=wide_type(pair))


def measure(
    pair: Pair, crew: Crew, checks: RecordChecks, out: torch.Tensor | None = None
) -> Measured:
    """Read a pair, and put its difference into `out` if that is given.

    Rows that only one of the two has differ by all that they hold.
    """

    def of(piece: _Piece) -> Measured:
        target = None if out is None else out[piece.start : piece.stop]
        if piece.sides == "both":
            return _compare(pair, piece, checks, target)
        value = pair.tuned if piece.sides == "tuned" else pair.base
        bits = _read(value, piece, checks)
        energy = _energy(_numbers(bits, value.dtype, torch.float64))
        return Measured(energy, True, is_finite(bits, value.dtype))

    return sum(crew.ordered(of, _pieces(pair)), Measured(0.0, False, True))


def _pieces(pair: Pair) -> Iterator[_Piece]:
    """Runs of rows of about a block's size, that neither tensor's groups of rows are split by."""
    both = min(pair.base.rows, pair.tuned.rows)
    ends = ((0, both, "both"), (both, pair.base.rows, "base"), (both, pair.tuned.rows, "tuned"))
    granule = lcm(pair.base.granule, pair.tuned.granule)
    height = max(1, _BLOCK // pair.base.columns // granule) * granule
    for start, stop, sides in ends:
        for at in range(start, stop, height):
            yield _Piece(at, min(at + height, stop), sides)


def _read(value: Expr, piece: _Piece, checks: RecordChecks) -> Bits:
    """(rows, columns), as the bits of the elements."""
    rows = piece.stop - piece.start
    out = np.empty((rows, value.columns), bits_dtype(value.dtype))
    value.fill(out, piece.start, CheckedContext(value.scratch_bytes(rows), checks))
    return out


def _numbers(bits: Bits, dtype: DType, wide: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits).view(getattr(torch, dtype.torch)).to(wide)


def _compare(pair: Pair, piece: _Piece, checks: RecordChecks, out: torch.Tensor | None) -> Measured:
    a, b = (_read(value, piece, checks) for value in (pair.base, pair.tuned))
    finite = is_finite(a, pair.base.dtype) and is_finite(b, pair.tuned.dtype)
    if pair.base.dtype == pair.tuned.dtype and np.array_equal(a, b):
        if out is not None:
            out.zero_()
        return Measured(0.0, False, finite)
    wide = wide_type(pair)
    base, tuned = _numbers(a, pair.base.dtype, wide), _numbers(b, pair.tuned.dtype, wide)
    difference = tuned.sub(base)
    if out is not None:
        out.copy_(difference)
    differs = bool(((tuned != base) & ~(tuned.isnan() & base.isnan())).any())
    return Measured(_energy(difference), differs, finite and bool(difference.isfinite().all()))


def _energy(x: torch.Tensor) -> float:
    flat = x.reshape(-1).to(torch.float64)
    return float(torch.dot(flat, flat))
