"""Tensors stored in plain files with any offset and strides, for tests of expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamatools.containers.base import InputFile, StoredTensor
from llamatools.dtypes import BF16
from llamatools.expr.bits import Bits
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr

Words = NDArray[np.uint16]


def store(
    path: Path,
    storage: Words,
    shape: Sequence[int],
    strides: Sequence[int],
    offset: int = 0,
    header: int = 10,
) -> StoredTensor:
    """A view of a storage that lies behind `header` bytes of something else."""
    path.write_bytes(b"\xee" * header + storage.tobytes())
    at = header + offset * 2
    return StoredTensor(path.name, BF16, tuple(shape), InputFile(path), at, tuple(strides))


def view(
    storage: Words, shape: Sequence[int], strides: Sequence[int], offset: int = 0
) -> NDArray[np.uint16]:
    """What numpy makes of the same storage, shape and strides."""
    tail = storage[offset:]
    steps = [s * tail.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(tail, tuple(shape), steps).copy()


def filled(value: Expr, start: int, stop: int) -> Bits:
    """Rows start .. stop, with exactly the scratch memory the expression asks for."""
    out = np.full((stop - start, value.columns), 0xAAAA, np.uint16)
    value.fill(out, start, PlainContext(value.scratch_bytes(stop - start)))
    return out
