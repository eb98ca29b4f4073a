"""One process, run and measured: wall time, processor time, memory, reads from the disk.

Standard library only. On Linux a child's peak RSS starts at what its parent held when it was
started, so no figure can be below this process's own size; keep it small.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

_SAMPLE_S = 0.025

# Compiled modules are kept, as they are for an installed package, whatever the caller has set.
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Run:
    """Sizes in bytes, times in seconds.

    `peak_rss` is the kernel's own peak for the largest process of the tree and includes mapped
    files; `peak_anonymous` is sampled, is the tree's sum, and leaves mapped files out.
    """

    wall: float
    user: float
    system: float
    peak_rss: int
    peak_anonymous: int
    disk_read: int


class ChildFailed(Exception):
    """The process ended otherwise than with status 0. Says how, and its last line of stderr."""


def run(argv: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> Run:
    """Runs `argv` to its end. Its output goes to the file `log`. Raises ChildFailed."""
    with log.open("wb") as output:
        begin = time.perf_counter()
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, **_BYTECODE, **env},
        )
        sampler = _AnonymousPeak(child.pid)
        try:
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - begin
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            sampler.stop()
    child.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by Popen
    if child.returncode:
        raise ChildFailed(_how_it_ended(child.returncode, log))
    return Run(
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        peak_rss=usage.ru_maxrss * 1024,
        peak_anonymous=sampler.peak,
        disk_read=usage.ru_inblock * 512,
    )


def _how_it_ended(status: int, log: Path) -> str:
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1]}" if lines else ended


class _AnonymousPeak(Thread):
    """Samples the anonymous memory of a process and its descendants until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stopped = Event()
        self.peak = 0
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            self.peak = max(self.peak, _anonymous(self._pid))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _anonymous(pid: int) -> int:
    """RssAnon of a process and all below it; a process that has ended counts as 0."""
    folder = Path("/proc") / str(pid)
    total = 0
    try:
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total = int(line.split()[1]) * 1024
        for children in folder.glob("task/*/children"):
            total += sum(_anonymous(int(child)) for child in children.read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total
