"""Reading canonical tensors into memory, whole or some rows of them."""

from __future__ import annotations

import numpy as np

from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr


def read_tensor(value: Expr, start: int = 0, stop: int | None = None) -> Bits:
    """Rows start .. stop of a tensor, as the bits of its elements.

    The array is of unsigned integers as wide as the element, in the tensor's shape; numpy has no
    bfloat16. `torch.from_numpy(bits).view(getattr(torch, value.dtype.torch))` makes it numbers.
    Both ends must be multiples of `value.granule`, or the last row.
    """
    stop = value.rows if stop is None else stop
    if not 0 <= start <= stop <= value.rows:
        raise ValueError(f"rows {start} to {stop} of {value.rows}")
    if start % value.granule or (stop % value.granule and stop != value.rows):
        raise ValueError(f"rows of this tensor come in groups of {value.granule}")
    out = np.empty((stop - start, value.columns), bits_dtype(value.dtype))
    value.fill(out, start, PlainContext(value.scratch_bytes(stop - start)))
    return out.reshape(stop - start, *value.shape[1:])
