"""A file that was not there before: created, written from any thread, and on disk once finished.

Whatever this package writes goes through here. A refused fsync is never repeated: the system may
have given up the bytes that it could not write, and report success the next time.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from llamatools.errors import IOFailed
from llamatools.text import safe

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE_BYTES = 256 << 10
"""Bytes per system call. The page cache takes memory in pieces as large as the write: small ones
are found among what was just freed, large ones in a virtual machine are memory that the host has
taken back and must give again, at several times the cost of the copy itself."""
_NO_RESERVING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)
_HINTS = {
    errno.EACCES: "choose a folder that may be written",
    errno.EPERM: "choose a folder that may be written",
    errno.EROFS: "choose another disk",
    errno.EFBIG: "the file system or the shell (ulimit -f) allows no files of this size",
    errno.EIO: "the disk, or what leads to it, may be failing: the system's log tells more",
}
_HINT = "free space or choose another disk, then run the same command again"


def io_failed(path: Path, doing: str, error: OSError) -> IOFailed:
    """The message for a system call on an output file that failed."""
    return IOFailed(
        f"{safe(path)}: {doing} failed: {error.strerror or error}",
        hint=_HINTS.get(error.errno or 0, _HINT),
    )


class NewFile:
    """`write` anywhere or `append`, then `finish`; or `drop` it. IOFailed where one fails."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """`size`: bytes to set aside, so that a full disk is known before they are written."""
        self.path = path
        self._end = 0
        self._fd = -1
        try:
            self._fd = os.open(path, _FLAGS, 0o666)
            if size:
                self._reserve(size)
        except OSError as e:
            self.drop()
            raise io_failed(path, "creating the file", e) from e

    def _reserve(self, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as e:
            if e.errno not in _NO_RESERVING:
                raise

    def fileno(self) -> int:
        return self._fd

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """All of it, in as many calls as the system wants."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                taken = os.pwrite(self._fd, view[done : done + _WRITE_BYTES], offset + done)
                if taken <= 0:
                    raise OSError(errno.EIO, "not a byte was taken")
                done += taken
        except OSError as e:
            raise io_failed(self.path, f"writing at byte {offset + done}", e) from e

    def append(self, data: bytes | memoryview) -> None:
        self.write(self._end, data)
        self._end += len(data)

    def finish(self, *, sync: bool = True) -> None:
        """fsync and close. What fails here is not on disk, whatever is tried afterwards."""
        try:
            if sync:
                os.fsync(self._fd)
        except OSError as e:
            self.drop()
            raise io_failed(self.path, "fsync", e) from e
        fd, self._fd = self._fd, -1  # a descriptor is gone even if closing it fails
        try:
            os.close(fd)
        except OSError as e:
            raise io_failed(self.path, "closing", e) from e

    def drop(self) -> None:
        """Close it as it is; nobody will use it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def write_document(path: Path, data: bytes) -> None:
    """A small file, whole and synced."""
    file = NewFile(path)
    try:
        file.append(data)
        file.finish()
    finally:
        file.drop()
