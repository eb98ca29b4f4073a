"""How the processes of a run find each other: by a store that all reach, as torchrun's words say.

Each writes down that it has come, and waits for the others, but not for ever: a machine that did
not start, or a process that died on its way, is missed by its number.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from llamatools.engine.environment import environment
from llamatools.errors import IOFailed, UsageError
from llamatools.text import safe

POLL = 0.05
_SECONDS = 120.0
_VARIABLE = "LLAMATOOLS_MEETING_SECONDS"
"""Overrides it."""
_LONGEST = 86400.0
_MAX_NAMED = 8
_MAX_PROBLEM = 2000
_meetings = count()
"""A process may meet others several times; each time words are left in another place."""


def meet() -> tuple[int, int, Any]:
    """(rank, number of processes, store), once all have come; IOFailed where some do not."""
    rank, _, size = environment()
    limit = _patience()
    shared = _shared(rank == 0, limit)
    # Under torchrun the store outlives processes, which may be started again.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"llamatools {attempt} {next(_meetings)}", shared)
    end = time.monotonic() + limit
    with connected():
        store.set(_here(rank), "")
        missing = list(range(size))
        while missing := [r for r in missing if not store.check([_here(r)])]:
            if time.monotonic() > end:
                raise _absent(missing, limit)
            time.sleep(POLL)
    return rank, size, store


def _here(rank: int) -> str:
    return f"here {rank}"


@lru_cache(maxsize=1)
def _shared(first: bool, limit: float) -> Any:
    """The store. Process 0 holds it, unless torchrun does, and for as long as it lives: who goes
    on to the next meeting early must not find the store of the last."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise UsageError(
            "the environment does not say where processes meet: MASTER_ADDR and MASTER_PORT",
            hint="torchrun sets them; without RANK in the environment, one process runs alone",
        ) from None
    holds = first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    if not holds:
        _await(address, port, limit)
    with connected():
        return TCPStore(
            address,
            port,
            is_master=holds,
            timeout=timedelta(seconds=limit),
            wait_for_workers=False,
            multi_tenant=True,
        )


def _await(address: str, port: int, limit: float) -> None:
    """Until somebody answers there. torch would wait as well, and print its stack meanwhile."""
    end = time.monotonic() + limit
    while True:
        try:
            socket.create_connection((address, port), timeout=limit).close()
            return
        except (OSError, OverflowError, UnicodeError):
            if time.monotonic() > end:
                raise _absent([0], limit) from None
        time.sleep(POLL)


def _patience() -> float:
    """Seconds until all processes must have come."""
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST:
        raise UsageError(f"{_VARIABLE}={safe(text)}: expected seconds, 1 to {_LONGEST:.0f}")
    return seconds


def _absent(ranks: list[int], limit: float) -> IOFailed:
    named = ", ".join(map(str, ranks[:_MAX_NAMED]))
    more = f" and {len(ranks) - _MAX_NAMED} more" if len(ranks) > _MAX_NAMED else ""
    word = "process" if len(ranks) == 1 else "processes"
    return IOFailed(
        f"{word} {named}{more} of this run did not come within {limit:g} seconds",
        hint=f"what they printed tells more; {_VARIABLE} sets how long they are waited for",
    )


def lost(error: object) -> IOFailed:
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return IOFailed(
        f"the processes of this run lost each other: {safe(first[0], _MAX_PROBLEM)}",
        hint="what the other processes printed tells more",
    )


@contextmanager
def connected() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as e:  # torch's, for all that befalls a connection
        raise lost(e) from e
