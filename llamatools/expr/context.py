"""The plainest context for expressions: reads and scratch memory, no books kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from llamatools.containers.base import StoredTensor
from llamatools.dtypes import DType
from llamatools.expr.arena import Arena
from llamatools.expr.bits import Bits, as_bytes
from llamatools.expr.nodes import Expr, T


class Once:
    """Results that are computed once, by whichever thread asks first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By identity. The key is held, so that no later object is taken for it.
        self._results: dict[int, tuple[object, Future[Any]]] = {}

    def get(self, key: object, make: Callable[[], T]) -> T:
        with self._lock:
            known = self._results.get(id(key))
            _, result = known or self._results.setdefault(id(key), (key, Future()))
        if known is None:  # computed without the lock: other keys need not wait
            try:
                result.set_result(make())
            except BaseException as e:
                result.set_exception(e)
        value: T = result.result()
        return value


class PlainContext:
    def __init__(self, capacity: int, results: Once | None = None) -> None:
        self._arena = Arena(capacity)
        self.results = results or Once()

    def read(self, tensor: StoredTensor, offset: int, out: Bits) -> None:
        tensor.file.read_into(as_bytes(out), offset)

    def scratch(self, rows: int, columns: int, dtype: DType) -> AbstractContextManager[Bits]:
        return self._arena.take(rows, columns, dtype)

    def note(self, key: str, counts: Mapping[str, int]) -> None:
        """Statistics are nobody's interest here."""

    def witness(self, name: str, value: Expr, start: int, block: Bits) -> None:
        """Nor are digests."""

    def once(self, key: object, make: Callable[[], T]) -> T:
        return self.results.get(key, make)
