"""Files brought to disk while the next ones are written.

An fsync waits for the disk, and a run need not wait with it. What the disk refuses stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import TracebackType

from llamatools.engine.execute import settle
from llamatools.engine.outcome import Progress
from llamatools.engine.rename import sync_folder
from llamatools.engine.sink import Sink


class _Lot:
    """Files that go to disk together, and what is called when they are there to stay."""

    def __init__(self, sinks: Sequence[Sink], then: Callable[[], None] | None) -> None:
        self.sinks = sinks
        self.then = then
        self.over = Event()


class Keeper:
    """`hold` files that are complete, then `keep` them; one lot at a time is on its way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: Sequence[Sink] = ()
        self._last: _Lot | None = None
        self._lots: SimpleQueue[_Lot | None] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._error: BaseException | None = None

    def hold(self, sinks: Sequence[Sink]) -> None:
        self._held = sinks

    def keep(self, then: Callable[[], None] | None) -> None:
        """Have the files finished, in time; and `then` called, once they are there to stay."""
        if self._last is not None:
            self._last.over.wait()
        self.check()
        lot = _Lot(self._held, then)
        self._lots.put(lot)
        self._last, self._held = lot, ()

    def _work(self) -> None:
        while (lot := self._lots.get()) is not None:
            try:
                settle(lot.sinks)
                if lot.then is not None:
                    sync_folder(self._folder)
                    lot.then()
            except BaseException as e:
                self._error = e
            lot.over.set()

    def check(self) -> None:
        """Raise what went wrong with files that were to be kept."""
        if self._error is not None:
            raise self._error

    def watching(self, progress: Progress) -> Progress:
        """The same, which fails as soon as files could not be kept."""

        def watched(done: int) -> None:
            self.check()
            progress(done)

        return watched

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        """All files are on disk then; after a failure at least those that were on their way."""
        self._lots.put(None)
        try:
            self._thread.join()
        except BaseException:  # a signal; but nobody else is to touch the files before
            self._thread.join()
            raise
        finally:
            for sink in self._held:
                sink.drop()
        if kind is None:
            self.check()
