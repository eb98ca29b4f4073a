"""One run at a time for one output: a lock that goes with whoever holds it, however that ends.

A lock is a file in the folder that it protects, and is removed with it. So whoever has locked a
file looks whether that is still the one which others will find.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from llamatools.engine.newfile import io_failed
from llamatools.errors import OutputExists
from llamatools.text import safe

NAME = "lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_PATIENCE = 0.2
"""Seconds for a run that has just ended to let go."""


class Lock:
    """Held until it is released, or the process ends."""

    def __init__(self, path: Path, fd: int, *, sure: bool) -> None:
        self._path = path
        self._fd = fd
        self.sure = sure
        """Whether the system keeps others out, and lets them in when this process is gone."""

    def holds(self) -> bool:
        """Whether the file that is locked is still the one which others find."""
        try:
            return self._fd >= 0 and _same(self._fd, self._path)
        except OSError:
            return False

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)

    def remove(self) -> None:
        """Release it, the file gone before: who waits for that file sees that it was removed."""
        try:
            with suppress(OSError):
                self._path.unlink()
        finally:
            self.release()


def take(folder: Path, out: Path, *, made: bool) -> Lock | None:
    """The lock on the folder for the output; None where the folder went with another run.

    OutputExists where another run holds it. Where the file system has no locks, whoever made the
    folder holds it, and nobody can tell a dead one from one that is at work.
    """
    path = folder / NAME
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise io_failed(path, "creating the lock", e) from e
    try:
        if not S_ISREG(os.fstat(fd).st_mode):
            raise OutputExists(f"{safe(path)}: not a plain file", hint=f"remove {safe(folder)}")
        sure = _locked(fd, path, out)
        if not sure and not made:
            raise OutputExists(
                f"another run is writing {safe(out)}, or was killed: locks, which would tell, are "
                "not known to this file system",
                hint=f"if no other run is at work, remove {safe(folder)}",
            )
        if not _same(fd, path):
            _close(fd)
            return None
    except OSError as e:
        _close(fd)
        raise io_failed(path, "locking", e) from e
    except BaseException:
        _close(fd)
        raise
    return Lock(path, fd, sure=sure)


def _locked(fd: int, path: Path, out: Path) -> bool:
    """False where the file system has no locks; OutputExists where another run has this one."""
    end = time.monotonic() + _PATIENCE
    while (code := _flock(fd)) in _TAKEN and time.monotonic() < end:
        time.sleep(0.02)
    if code in _TAKEN:
        raise OutputExists(
            f"another run is writing {safe(out)}",
            hint="wait for it to end, or choose another name for the output",
        )
    if code and code not in _UNKNOWN:
        raise io_failed(path, "locking", OSError(code, os.strerror(code)))
    return not code


def _flock(fd: int) -> int:
    """0, or the number of the error."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno or errno.EIO
    return 0


def _same(fd: int, path: Path) -> bool:
    """Whether the open file is the one that has the name."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)
