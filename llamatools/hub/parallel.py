"""Several requests at once, by threads that nobody waits for once the answer no longer matters.

Who stops the program, or a first failure, does not wait for a server that takes its time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
_LOOK = 0.25
"""Seconds between looks at whether anything still moves."""


def in_parallel(
    work: Callable[[T], R], items: Sequence[T], look: Callable[[], None]
) -> Iterator[tuple[T, R]]:
    """Each item and its result, as they come. Raises the first error; `look` may raise another."""
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | None, BaseException | None]] = queue.SimpleQueue()
    over = threading.Event()
    for item in items:
        todo.put(item)

    def run() -> None:
        while not over.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, work(item), None))
            except BaseException as e:
                done.put((item, None, e))

    for _ in range(min(THREADS, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in items:
            item, result, error = _next(done, look)
            if error is not None:
                raise error
            yield item, result  # type: ignore[misc]  # there is one where there is no error
    finally:
        over.set()


def _next(done: queue.SimpleQueue[R], look: Callable[[], None]) -> R:
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=_LOOK)
        look()
