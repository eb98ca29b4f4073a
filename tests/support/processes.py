"""The command line in several processes: as torchrun starts them, or with nobody to end them.

Or in threads of this process that share a store: the same code but for how processes meet and
print, in a hundredth of the time.

Run as a script it is one of them, which `how` may make fail: `processes.py HOW WORDS...` with HOW
like "1=reads,0=slow" or "-".
"""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from support.calls import Called

ROOT = Path(__file__).parents[2]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **more}


def _command(how: str, words: tuple[object, ...]) -> list[str]:
    return [str(Path(__file__)), how, *map(str, words)]


def start_torchrun(count: int, *words: object, how: str = "-") -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", str(count), *_command(how, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_environment())


def ended(process: subprocess.Popen[str]) -> Called:
    out, err = process.communicate(timeout=150)
    return Called(process.returncode, out, err)


def torchrun(count: int, *words: object, how: str = "-") -> Called:
    return ended(start_torchrun(count, *words, how=how))


def by_hand(
    count: int, *words: object, how: str = "-", folders: list[Path] | None = None
) -> list[Called]:
    """What each process leaves, where none ends another; `folders`: where each is started."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    running = []
    for i in range(count):
        group = {
            "RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        running.append(
            subprocess.Popen(
                [sys.executable, *_command(how, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=_environment(**group),
                cwd=folders[i] if folders else None,
            )
        )
    try:
        return [ended(p) for p in running]
    finally:
        for p in running:
            p.kill()
            p.wait()


# --- in threads -----------------------------------------------------------------------------------


class _Killed(BaseException):
    """What no handler knows of, as with SIGKILL."""


class _NoStore:
    """What a process that is gone says to the others."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("gone")


class _Shell(io.StringIO):
    """What the first process prints; of others, as under torchrun, nothing."""

    def write(self, text: str) -> int:
        if isinstance(text, bytes):  # click tries what a stream takes
            raise TypeError
        return len(text) if getattr(_place, "rank", 0) else super().write(text)


_place = threading.local()


def in_threads(
    count: int, *words: object, how: str = "-", folders: list[Path] | None = None
) -> list[Called]:
    """As `by_hand`. With `folders`, the words "in" and "out" are below them."""
    from torch.distributed import HashStore

    from llamatools.engine import processes, together
    from llamatools.engine.processes import Processes

    store, shells = HashStore(), (_Shell(), _Shell())
    members = [Processes(i, count, store) for i in range(count)]
    codes: list[int] = [-1] * count
    over = [threading.Event() for _ in range(count)]

    def member(i: int) -> None:
        _place.rank, _place.ended = i, over
        mine = [folders[i] / w if folders and w in ("in", "out") else w for w in map(str, words)]
        try:
            codes[i] = _call(members[i], [str(w) for w in mine])
        except _Killed:
            codes[i] = -signal.SIGKILL
        finally:
            over[i].set()

    kinds = dict(part.split("=") for part in how.split(",") if "=" in part)
    with (
        redirect_stdout(shells[0]),
        redirect_stderr(shells[1]),
        mock.patch.object(processes, "_SILENCE", 2.0),
        mock.patch.object(processes, "_GONE", 1.5),
        mock.patch.object(together, "_APPEARING", 0.5),
        mock.patch.object(together, "execute", lambda *a: _begun(members, kinds, *a)),
    ):
        threads = [threading.Thread(target=member, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "one waits for ever"
    out, err = (shell.getvalue() for shell in shells)
    return [Called(codes[0], out, err), *(Called(code, "", "") for code in codes[1:])]


def _call(processes: Any, words: list[str]) -> int:
    from llamatools.cli import failures
    from llamatools.cli.main import cli
    from llamatools.engine.processes import bound

    def command() -> object:
        with bound(processes):
            return cli(words, "llamatools", standalone_mode=False, obj=processes)

    return failures.guard(command, words)


def _begun(members: list[Any], kinds: dict[str, str], *arguments: Any) -> Any:
    """In place of `execute`."""
    from llamatools.engine.execute import execute
    from llamatools.errors import IOFailed

    kind = kinds.get(str(_place.rank))
    if kind == "reads":
        raise IOFailed("f: reading at byte 1 failed: Input/output error")
    if kind == "bug":
        _bug()
    if kind == "dies":
        members[_place.rank]._store = _NoStore()
        for other in members[_place.rank].others:  # what it was at stays as it is
            _place.ended[other].wait(30)
        raise _Killed
    if kind == "slow":
        time.sleep(1)
    outcome = execute(*arguments)
    if kind == "lies":
        outcome.tensors["norm.weight"] = "0" * 64
    return outcome


# --- in the process -------------------------------------------------------------------------------


def _reads() -> None:
    def preadv(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.preadv = preadv


def _bug() -> None:
    raise KeyError("what is this")


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _slow() -> None:
    from llamatools.engine.sink import Sink

    write = Sink.write

    def slowly(self: Sink, offset: int, data: memoryview) -> None:
        time.sleep(0.3)
        write(self, offset, data)

    Sink.write = slowly  # type: ignore[method-assign]


_BEFORE: dict[str, Callable[[], None]] = {
    "reads": _reads, "bug": _bug, "dies": _dies, "slow": _slow,
}  # fmt: skip


def _become(how: str) -> None:
    """From when this process begins to write, do so."""
    from llamatools.cli import several
    from llamatools.engine import processes, together
    from llamatools.engine.execute import execute
    from llamatools.engine.outcome import Outcome

    def begun(*args: Any) -> Outcome:
        _BEFORE.get(how, lambda: None)()
        outcome = execute(*args)
        if how == "lies":
            outcome.tensors["norm.weight"] = "0" * 64
        return outcome

    together.execute = begun  # type: ignore[attr-defined]
    processes._SILENCE = 6.0
    together._APPEARING = 1.0
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # nobody ends the first process
        several._SAY = 0.0


def main() -> int:
    from llamatools.cli.main import main as run

    how, *words = sys.argv[1:]
    kinds = dict(part.split("=") for part in how.split(",") if "=" in part)
    if how != "-":
        _become(kinds.get(os.environ["RANK"], ""))
    sys.argv = ["llamatools", *words]
    return run()


if __name__ == "__main__":
    sys.exit(main())
