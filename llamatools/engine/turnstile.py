"""Lets blocks that workers finish in any order through in one order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Another worker failed; this one has nothing left to do."""


class Turnstile:
    """`with turnstile.turn(n)` runs for n = 0, 1, 2, ... strictly one after the other."""

    def __init__(self) -> None:
        self._next = 0
        self._stopped = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next == number)
            if self._stopped:
                raise Stopped
        yield
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Make every waiting and later turn raise Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
