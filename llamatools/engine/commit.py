"""The moment from which a run's output stands: a request to stop comes too late then.

What is left to do takes no time worth saving, and who started the run must not be told that it
was stopped when its output is there.
"""

from __future__ import annotations

from threading import Event

_passed = Event()


def commit() -> None:
    """Called just before the output gets its name."""
    _passed.set()


def committed() -> bool:
    """Whether this process has begun to publish an output."""
    return _passed.is_set()
