"""The plainest context for expressions: reads and scratch memory, no books kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from llamatools.containers.base import StoredTensor
from llamatools.dtypes import DType
from llamatools.expr.arena import Arena
from llamatools.expr.bits import Bits, as_bytes


class PlainContext:
    def __init__(self, capacity: int) -> None:
        self._arena = Arena(capacity)

    def read(self, tensor: StoredTensor, offset: int, out: Bits) -> None:
        tensor.file.read_into(as_bytes(out), offset)

    def scratch(self, rows: int, columns: int, dtype: DType) -> AbstractContextManager[Bits]:
        return self._arena.take(rows, columns, dtype)

    def note(self, key: str, counts: Mapping[str, int]) -> None:
        """Statistics are nobody's interest here."""
