"""Sketches: 32 numbers that stand for a long row, so that two rows can be told apart later.

    sketch[j] = sum over i of sign(i, j) * x[i]

sign(i, j) is +1 where bit j of the i-th little-endian 32-bit word of BLAKE3's output stream for
b"llamatools sketch 1" is 0, else -1. The same everywhere, and the same for the first rows whatever
the length. Over the choice of signs the mean of sketch² is the sum of squares of x, exactly; and
the sketch of a difference is the difference of sketches. So

    mean(sketch(a) - sketch(b))² / len(a)

estimates the mean square of a - b without bias, with a relative deviation of sqrt(2 / 32) for one
row, less over many (Achlioptas, "Database-friendly random projections", 2003).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

KIND = "blake3-signs-1"
COLUMNS = 32
_SEED = b"llamatools sketch 1"
_WORD = COLUMNS // 8
_CHUNK = 1 << 14
"""Elements of a row whose signs are spelled out at a time: 4 MB of them."""
_KEPT = 16
"""Chunks that are kept: enough for every hidden row and for a vocabulary of 262,144."""

Floats = NDArray[np.float64]


def as_numpy(x: torch.Tensor) -> Floats:
    """A tensor of numbers of any type, on any device."""
    out: Floats = x.detach().cpu().double().numpy()
    return out


@lru_cache(maxsize=_KEPT)
def _signs(chunk: int) -> Floats:
    """(_CHUNK, COLUMNS) signs of elements chunk·_CHUNK onwards."""
    data = blake3(_SEED).digest(length=_CHUNK * _WORD, seek=chunk * _CHUNK * _WORD)
    bits = np.unpackbits(
        np.frombuffer(data, np.uint8).reshape(_CHUNK, _WORD), axis=1, bitorder="little"
    )
    out: Floats = 1.0 - 2.0 * bits.astype(np.float64)
    return out


def sketch(x: Floats) -> Floats:
    """(rows, n) -> (rows, COLUMNS)."""
    out = np.zeros((len(x), COLUMNS))
    for chunk, start in enumerate(range(0, x.shape[1], _CHUNK)):
        part = x[:, start : start + _CHUNK]
        out += part @ _signs(chunk)[: part.shape[1]]
    return out


def mean_square(sketches: Floats, length: int) -> Floats:
    """(..., COLUMNS) -> (...): what the sketches say of the mean square of rows of `length`."""
    out: Floats = np.square(sketches).mean(axis=-1) / length
    return out


@lru_cache(maxsize=4)
def sketch_of_ones(n: int) -> Floats:
    """(1, COLUMNS): what a row of n ones has, so that a mean can be taken out of a sketch."""
    return sketch(np.ones((1, n)))
