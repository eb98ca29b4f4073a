"""Elements as numbers: from bits to wide floats, and back, rounded once.

With numpy alone. It has no bfloat16, which is the upper half of an fp32; and loading torch would
take longer than merging a small adapter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatools.dtypes import BF16, F16, F32, DType
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr

Numbers = NDArray[Any]
"""(rows, columns) of fp32 or fp64."""

_AS_FLOAT = {F32: np.float32, F16: np.float16}


def as_numbers(block: Bits, dtype: DType, wide: np.dtype[Any]) -> Numbers:
    """Elements given as bits, as numbers of a type that holds them exactly: always a copy."""
    if dtype != BF16:
        return block.view(_AS_FLOAT[dtype]).astype(wide)
    upper = block.astype(np.uint32)
    upper <<= 16
    return upper.view(np.float32).astype(wide, copy=False)


def round_into(numbers: Numbers, dtype: DType, out: Bits) -> None:
    """Numbers rounded to nearest, ties to even, as bits of `dtype`.

    fp64 is rounded to fp32 alone. NaN may come out as anything: look for it in `numbers`.
    """
    if dtype != BF16:
        with np.errstate(over="ignore"):
            np.copyto(out.view(_AS_FLOAT[dtype]), numbers, casting="same_kind")
        return
    bits = numbers.view(np.uint32)
    # Half a step, less the smallest part of it where the last bit kept is even.
    carry = bits >> 16
    carry &= 1
    carry += 0x7FFF
    carry += bits
    carry >>= 16
    np.copyto(out, carry, casting="unsafe")


def read_numbers(x: Expr, start: int, stop: int, ctx: Context, wide: np.dtype[Any]) -> Numbers:
    """Rows start .. stop of an expression."""
    with ctx.scratch(stop - start, x.columns, x.dtype) as block:
        x.fill(block, start, ctx)
        return as_numbers(block, x.dtype, wide)
