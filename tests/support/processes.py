"""The command line in several processes: as torchrun starts them, or with nobody to end them.

Run as a script it is one of them, which `how` may make fail: `processes.py HOW WORDS...` with HOW
like "1=reads,0=slow" or "-".
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    from llamatools.engine.execute import Outcome, execute

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
