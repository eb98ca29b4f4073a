"""Words to the user from deep inside. The command line listens; in a library they are not heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
_listeners: list[Say] = []


def say(text: str) -> None:
    """What a user ought to know, and need not do anything about."""
    for listener in _listeners[-1:]:
        listener(text)


@contextmanager
def heard(listener: Say) -> Iterator[None]:
    """While this lasts, the listener is called with whatever is said."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
