"""One command in a child of this process: forked, not started, so that it costs milliseconds.

The child has what this process imported, and may be killed, starved or mutated at will.
"""

from __future__ import annotations

import codecs
import gc
import io
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from doors import Call
from injected import Fault, Injector, Kill
from syscalls import Watch, survey

_LIMIT = 60.0
"""Seconds until a child is taken for one that hangs."""


@dataclass
class Counts:
    """What was tried in this session, for the summary; the harness must not inject nothing."""

    runs: int = 0
    faults: int = 0
    kills: int = 0
    states: int = 0
    """Contents that a disk may have after the power failed."""


COUNTS = Counts()


@dataclass(frozen=True)
class Ran:
    """What a child left: exit code (-9 where it was killed), its words, and what it did."""

    code: int
    out: str
    err: str
    calls: list[Call]
    hit: list[Call]


_mutations: list[Callable[[], object]] = []


@contextmanager
def mutated(mutation: Callable[[], object]) -> Iterator[None]:
    """While this lasts, every child calls it before it begins: to be worse than it should be."""
    _mutations.append(mutation)
    try:
        yield
    finally:
        _mutations.remove(mutation)


def run(
    words: Sequence[object],
    root: Path,
    fault: Fault | None = None,
    *,
    keep: bool = False,
    prepare: Callable[[], object] = lambda: None,
) -> Ran:
    """`llamatools WORDS` in a child, which suffers a fault below `root`.

    With `keep` the calls have the bytes that were written. `prepare` is called in the child first.
    """
    return Child(words, root, fault, keep=keep, prepare=prepare).end()


class Child:
    """A command at work."""

    def __init__(
        self,
        words: Sequence[object],
        root: Path,
        fault: Fault | None = None,
        *,
        keep: bool = False,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        COUNTS.runs += 1
        self._fault = fault
        survey()
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._reader)
            try:
                _be_the_child([str(w) for w in words], root, fault, keep, prepare, writer)
            finally:
                os._exit(99)
        os.close(writer)

    def end(self) -> Ran:
        """Wait for it; returns what it left."""
        try:
            told = _listen(self._reader, self._child)
        finally:
            os.close(self._reader)
        _, status = os.waitpid(self._child, 0)
        code = os.waitstatus_to_exitcode(status)
        if not told:
            assert code == -signal.SIGKILL, f"the child ended with {code} and said nothing"
            return Ran(code, "", "", [], [])
        out, err, calls, hit = pickle.loads(told)  # noqa: S301
        if hit:
            COUNTS.faults += 1
            COUNTS.kills += self._fault is not None and isinstance(self._fault.effect, Kill)
        return Ran(code, out, err, calls, hit)


def _listen(reader: int, child: int) -> bytes:
    out = bytearray()
    end = time.monotonic() + _LIMIT
    while True:
        ready, _, _ = select.select([reader], [], [], max(0, end - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child hangs")
        piece = os.read(reader, 1 << 20)
        if not piece:
            return bytes(out)
        out += piece


def _be_the_child(
    words: list[str],
    root: Path,
    fault: Fault | None,
    keep: bool,
    prepare: Callable[[], object],
    writer: int,
) -> None:
    out, err = io.StringIO(), io.StringIO()
    hook = Injector(fault)
    write, end = os.write, os._exit

    def tell() -> None:
        told = pickle.dumps((out.getvalue(), err.getvalue(), hook.calls, hook.hit))
        done = 0
        while done < len(told):
            done += write(writer, told[done:])

    hook.last_words = tell
    code = 98
    try:
        gc.disable()
        if "torch" in sys.modules:  # its other threads are this process's, not the child's
            sys.modules["torch"].set_num_threads(1)
        codecs.lookup("ascii")  # click does, and may not find a file to be free then
        from llamatools.cli import main
        from llamatools.engine import commit

        commit._passed.clear()  # what this process has published before is no concern of the child
        sys.argv = ["llamatools", *words]
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), out, err
        for mutation in _mutations:
            mutation()
        prepare()
        Watch(root, hook, keep=keep).begin()
        code = main.main()
    except BaseException as e:
        err.write(f"Traceback: {type(e).__name__}: {e}")
    tell()
    end(code)
