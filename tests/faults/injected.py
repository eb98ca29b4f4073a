"""Faults: at the n-th call of some kinds the system refuses, does half of it, or the process ends.

A fault is data, so that a table of them can be swept; `Injector` carries one out and keeps the
books of what a process did.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from doors import Call

LOOKS = ("open", "read", "look")
CHANGES = (
    "open", "write", "fsync", "allocate", "truncate", "rename", "exchange", "link", "mkdir",
    "unlink", "rmdir", "close", "attribute", "lock",
)  # fmt: skip


class Moment(Enum):
    """When a process is killed by a call."""

    BEFORE = "before"
    WITHIN = "within"
    """Half of the bytes are written; for what cannot be halved, the same as before."""
    AFTER = "after"


@dataclass(frozen=True)
class Refuse:
    """The system says no, with this errno."""

    errno: int

    def __str__(self) -> str:
        return os.strerror(self.errno)


@dataclass(frozen=True)
class Short:
    """A read or a write does only part of what it was asked for."""

    part: Callable[[int], int]
    name: str

    def __str__(self) -> str:
        return f"short: {self.name}"


@dataclass(frozen=True)
class Kill:
    """SIGKILL: nothing is tidied up, though what was written stays."""

    moment: Moment

    def __str__(self) -> str:
        return f"killed {self.moment.value}"


@dataclass(frozen=True)
class Send:
    """A signal that the process may handle."""

    number: int

    def __str__(self) -> str:
        return signal.Signals(self.number).name


@dataclass(frozen=True)
class Meanwhile:
    """Something else happens just before the call."""

    act: Callable[[], object]
    name: str

    def __str__(self) -> str:
        return self.name


Effect = Refuse | Short | Kill | Send | Meanwhile


@dataclass(frozen=True)
class Fault:
    """What befalls the `nth` call of some kinds below some folder; if it stays, all later too."""

    effect: Effect
    kinds: tuple[str, ...]
    nth: int = 0
    stays: bool = False
    below: str = ""

    def concerns(self, call: Call) -> bool:
        return call.name in self.kinds and (
            call.path.startswith(self.below) or call.other.startswith(self.below)
        )

    def __str__(self) -> str:
        kinds = self.kinds[0] if len(self.kinds) == 1 else "call"
        return f"{self.effect}{' from' if self.stays else ' at'} {kinds} {self.nth} on {self.below}"


@dataclass
class Injector:
    """The hook of a process that suffers a fault, or none."""

    fault: Fault | None = None
    last_words: Callable[[], object] = lambda: None
    """Called just before the process is killed."""
    calls: list[Call] = field(default_factory=list)
    """What happened, in order."""
    hit: list[Call] = field(default_factory=list)
    """Calls that the fault befell."""
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kill_after: Call | None = None

    def _befalls(self, call: Call) -> bool:
        if self.fault is None or not self.fault.concerns(call):
            return False
        with self._lock:
            number, self._seen = self._seen, self._seen + 1
            if number != self.fault.nth and not (self.fault.stays and number > self.fault.nth):
                return False
            self.hit.append(call)
            return True

    def before(self, call: Call, short: Callable[[int], Any]) -> Any:
        if self.fault is None or not self._befalls(call):
            return None
        effect = self.fault.effect
        if isinstance(effect, Refuse):
            raise OSError(effect.errno, os.strerror(effect.errno), call.path)
        if isinstance(effect, Short):
            return short(effect.part(call.size))
        if isinstance(effect, Send):
            os.kill(os.getpid(), effect.number)
        elif isinstance(effect, Meanwhile):
            effect.act()
        elif effect.moment is Moment.AFTER:
            self._kill_after = call
        else:
            if effect.moment is Moment.WITHIN and call.name == "write":
                short(call.size // 2)
            self._end()
        return None

    def after(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
        if self._kill_after is not None:
            self._end()

    def _end(self) -> None:
        self.last_words()
        os.kill(os.getpid(), signal.SIGKILL)
