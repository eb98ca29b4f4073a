"""Threads that reckon block by block, so that results depend on the blocks alone.

torch spreads one matrix product over as many threads as there are, and adds up in another order
for another number of them. Here every product is one thread's, several are under way at once, and
sums over blocks are added in the order of the blocks: the same bits, however many work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Blocks under way, for each thread: their results wait in memory for their turn."""


def _alone() -> None:
    torch.set_num_threads(1)


class Crew:
    """A context in which torch uses one thread for each of ours."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs or min(4, os.cpu_count() or 1)
        self._before = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Crew:
        self._before = torch.get_num_threads()
        _alone()
        self._pool = ThreadPoolExecutor(self._jobs, initializer=_alone)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)

    def ordered(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results for all items, in their order."""
        assert self._pool is not None, "a crew works within its context"
        under_way: deque[Future[R]] = deque()
        for item in items:
            under_way.append(self._pool.submit(work, item))
            if len(under_way) >= _AHEAD * self._jobs:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
