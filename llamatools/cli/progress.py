"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from llamatools.cli.messages import tell
from llamatools.text import count, nbytes

Begin = Callable[[int], Callable[[int], None]]


@contextmanager
def progress(what: str, *, quiet: bool, noun: str | None = None) -> Iterator[Begin]:
    """Gives what the library calls with the total, and what that returns with each part done.

    Both are bytes, or numbers of `noun`s.
    """
    if quiet:
        yield lambda total: lambda done: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(what, noun) as begin:
            yield begin
    else:
        yield lambda total: _Lines(what, total, noun).add


@contextmanager
def stages(*, quiet: bool) -> Iterator[Callable[[str], Begin]]:
    """Progress of one thing after another: by name, and each takes the place of the one before."""
    with ExitStack() as shown:

        def stage(what: str) -> Begin:
            def begin(total: int) -> Callable[[int], None]:
                shown.close()
                return shown.enter_context(progress(what, quiet=quiet))(total)

            return begin

        yield stage


@contextmanager
def _bar(what: str, noun: str | None) -> Iterator[Begin]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts = (MofNCompleteColumn(),) if noun else (DownloadColumn(), TransferSpeedColumn())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def begin(total: int) -> Callable[[int], None]:
            task = bar.add_task(what, total=total)
            return lambda done: bar.advance(task, done)

        yield begin


class _Lines:
    """A line whenever another tenth is done, and at most one a second."""

    def __init__(self, what: str, total: int, noun: str | None = None) -> None:
        self._what = what
        self._noun = noun
        self._total = max(1, total)
        self._done = 0
        self._told = 0
        self._start = self._last = time.monotonic()
        self._lock = threading.Lock()

    def add(self, done: int) -> None:
        with self._lock:
            self._done += done
            tenth = self._done * 10 // self._total
            now = time.monotonic()
            finished = self._done >= self._total
            if tenth == self._told or (now - self._last < 1 and not finished):
                return
            self._told, self._last = tenth, now
            rate = self._done / max(1e-9, now - self._start)
            if self._noun:
                tell(f"{self._what}: {self._done} of {count(self._total, self._noun)}")
                return
            tell(
                f"{self._what}: {self._done * 100 // self._total}% of {nbytes(self._total)}, "
                f"{nbytes(rate)}/s"
            )
