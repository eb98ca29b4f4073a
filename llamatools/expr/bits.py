"""Elements as bits: arrays of unsigned integers as wide as the element, never interpreted.

Arrays are two-dimensional, (rows, columns); a vector is a matrix of one column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatools.dtypes import DType

Bits = NDArray[Any]


def bits_dtype(dtype: DType) -> np.dtype[Any]:
    """The unsigned integer type that carries an element's bits."""
    return np.dtype(f"u{dtype.size}")


def as_bytes(block: Bits) -> memoryview:
    """The bytes of a contiguous block, not copied."""
    return block.data.cast("B")


def halves_from_pairs(pairs: Bits, out: Bits, head_dim: int) -> None:
    """(n·D, in): each head (D/2, 2, in) becomes (2, D/2, in)."""
    columns = pairs.shape[1]
    source = pairs.reshape(-1, head_dim // 2, 2, columns)
    target = out.reshape(-1, 2, head_dim // 2, columns)
    np.copyto(target, source.swapaxes(1, 2))


def pairs_from_halves(halves: Bits, out: Bits, head_dim: int) -> None:
    """(n·D, in): each head (2, D/2, in) becomes (D/2, 2, in)."""
    columns = halves.shape[1]
    source = halves.reshape(-1, 2, head_dim // 2, columns)
    target = out.reshape(-1, head_dim // 2, 2, columns)
    np.copyto(target, source.swapaxes(1, 2))
