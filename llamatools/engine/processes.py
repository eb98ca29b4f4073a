"""Several processes of one run, as torchrun starts them: words that they leave for each other.

All reach one store. A process that fails says why there, and whoever waits for it fails for the
same reason. Every second each shows that it lives: so nobody waits for one that was killed, or
whose machine is gone, and everybody for one that is at work, however long that takes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from llamatools import errors
from llamatools.engine.meeting import POLL, connected, lost, meet
from llamatools.errors import IOFailed, LlamatoolsError
from llamatools.text import safe

_FAILURE = "failure"
_MAX_PROBLEMS = 1000
_MAX_PROBLEM = 2000
_BEAT = 1.0
_SILENCE = 60.0
"""Seconds without a beat after which a process is lost, and the run with it."""
_GONE = 4.0
"""Seconds without a beat after which one that ends is not waited for."""
_QUIET = 10.0
"""Seconds that a process which fails has to stop writing; torchrun kills after 30."""
_LEAVING = 5.0


class Processes:
    """This process among those of a run; `store` is what they share."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def others(self) -> list[int]:
        return [r for r in range(self.size) if r != self.rank]

    def tell(self, error: BaseException) -> None:
        """Leave word of why this process fails; the first that does is the cause."""
        known = isinstance(error, LlamatoolsError)
        problems = error.problems if isinstance(error, LlamatoolsError) else [repr(error)]
        stopped = not isinstance(error, Exception)
        words = {
            "class": type(error).__name__ if known else IOFailed.__name__,
            "problems": [
                f"process {self.rank}: {'was stopped' if stopped else safe(p, _MAX_PROBLEM)}"
                for p in problems[:_MAX_PROBLEMS]
            ],
            "hint": getattr(error, "hint", None),
            "stopped": stopped,
        }
        with suppress(Exception):  # the store may be gone
            if self.size > 1 and not self._store.check([_FAILURE]):
                self._store.set(_FAILURE, json.dumps(words))

    def said(self, *, stops: bool = True) -> LlamatoolsError | None:
        """Why a process failed, if one did and said so; without `stops`, no signal is a reason."""
        try:
            words = json.loads(self._store.get(_FAILURE)) if self._has(_FAILURE) else None
        except Exception:  # the store went with the process that held it
            return None
        if words is None or (words["stopped"] and not stops):
            return None
        kind: type[LlamatoolsError] = getattr(errors, words["class"], IOFailed)
        return kind(words["problems"], hint=words["hint"])

    def put(self, key: str, words: object = None) -> None:
        """Leave words that `take` returns in any other process."""
        with connected():
            self._store.set(key, json.dumps(words))

    def take(self, key: str, owner: int) -> Any:
        """What process `owner` puts there, once it has. Raises what made any other fail."""
        pulse = _Pulse(self._store, owner)
        while True:
            with connected():
                if self._has(key):
                    return json.loads(self._store.get(key))
                silence = pulse.silence()
            self.check()
            if silence > _SILENCE:
                raise lost(f"nothing was heard of process {owner} for {_SILENCE:.0f} seconds")
            time.sleep(POLL)

    def check(self) -> None:
        """Raise what made another process fail, if one did."""
        if reason := self.said():
            raise reason

    def watching(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """The same, which now and then looks whether another process failed."""
        last = time.monotonic()

        def watched(done: int) -> None:
            nonlocal last
            progress(done)
            if time.monotonic() - last > _BEAT:
                last = time.monotonic()
                self.check()

        return watched

    def abandon(self, error: BaseException) -> None:
        """Make the others fail too, and give them the time to stop writing."""
        self.tell(error)
        self._wait("quiet", self.others, _QUIET)

    def _has(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _wait(self, word: str, ranks: list[int], limit: float) -> None:
        """Until they all left the word; not for ever, and not for those without a beat."""
        end = time.monotonic() + limit
        with suppress(RuntimeError):  # without the store, nobody is there to wait for
            pulses = {f"{word} {r}": _Pulse(self._store, r) for r in ranks}
            while pulses and time.monotonic() < end:
                for key in list(pulses):
                    if self._has(key) or pulses[key].silence() > _GONE:
                        del pulses[key]
                time.sleep(POLL)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show the others, while this lasts, that this process lives."""
        over = threading.Event()

        def beat() -> None:
            with suppress(RuntimeError):
                for n in count():
                    self._store.set(_alive(self.rank), str(n))
                    if over.wait(_BEAT):
                        return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_LEAVING)

    def leave(self, *, failed: bool) -> None:
        """Process 0 goes last, since it may hold the store; but who fails lets it go about that
        first: torchrun stops all others as soon as one is gone."""
        with suppress(IOFailed):
            self.put(f"quiet {self.rank}")
            if failed and not self.leads:
                self._wait("left", [0], _QUIET + 2 * _LEAVING)
            self.put(f"left {self.rank}")
        if self.leads:
            self._wait("left", self.others, _LEAVING)


class _Pulse:
    """When another process was last seen to live."""

    def __init__(self, store: Any, rank: int) -> None:
        self._store = store
        self._key = _alive(rank)
        self._beat: object = None
        self._since = time.monotonic()

    def silence(self) -> float:
        """Seconds without a beat."""
        beat = self._store.get(self._key) if self._store.check([self._key]) else None
        if beat != self._beat:
            self._beat, self._since = beat, time.monotonic()
        return time.monotonic() - self._since


def _alive(rank: int) -> str:
    return f"alive {rank}"


@contextmanager
def met() -> Iterator[Processes]:
    """All processes of the run, while this lasts. What makes one fail makes all fail."""
    with bound(Processes(*meet())) as processes:
        yield processes


@contextmanager
def bound(processes: Processes) -> Iterator[Processes]:
    """The same for processes that have met."""
    failed = True
    with processes.beating():
        try:
            yield processes
            failed = False
        except BaseException as e:
            processes.tell(e)
            # torchrun stops those that are left with a signal, which explains nothing.
            reason = None if isinstance(e, Exception) else processes.said(stops=False)
            if reason is not None:
                raise reason from e
            raise
        finally:
            processes.leave(failed=failed)
