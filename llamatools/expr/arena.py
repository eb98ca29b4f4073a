"""Scratch memory of one worker: a stack in one allocation, so that pages are touched once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from llamatools.dtypes import DType
from llamatools.expr.bits import Bits, bits_dtype

_ALIGN = 64


class Arena:
    def __init__(self, capacity: int) -> None:
        # Room for aligning the nested arrays, on top of what the plan asked for.
        self._memory = np.empty(capacity + 1024 * _ALIGN, np.uint8)
        self._top = 0

    @contextmanager
    def take(self, rows: int, columns: int, dtype: DType) -> Iterator[Bits]:
        """An uninitialised (rows, columns) array of bits until the context ends."""
        base = self._top
        size = rows * columns * dtype.size
        self._top = base + -(-size // _ALIGN) * _ALIGN
        try:
            if base + size > len(self._memory):
                raise MemoryError("a block needs more scratch memory than its plan said")
            memory = self._memory[base : base + size]
            yield memory.view(bits_dtype(dtype)).reshape(rows, columns)
        finally:
            self._top = base
