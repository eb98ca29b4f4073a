"""One output file: bytes go to their offsets from any thread, digests follow in file order."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from blake3 import blake3
from zlib_ng.zlib_ng import crc32

from llamatools.containers.base import FileLayout
from llamatools.errors import IOFailed
from llamatools.text import safe

_WRITE_BYTES = 256 << 10
"""Bytes per system call. The page cache takes memory in pieces as large as the write: small ones
are found among what was just freed, large ones in a virtual machine are memory that the host has
taken back and must give again, at several times the cost of the copy itself."""

_libc = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(_libc, "sync_file_range", None)


def _start_writeback(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a range to disk, so that fsync has little left to wait for.

    An optimisation only: where the system lacks it, or refuses, fsync still does the work.
    """
    if _sync_file_range is not None:
        _sync_file_range(
            fd, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )


def io_failed(path: Path, doing: str, error: OSError) -> IOFailed:
    """The message for a system call on an output file that failed."""
    return IOFailed(
        f"{safe(path)}: {doing} failed: {error.strerror or error}",
        hint="free space or choose another disk, then run the same command again",
    )


class Sink:
    """Create, `write` in any order, `digest` the same pieces in file order, `finish`."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self.path = path
        self._layout = layout
        self._hasher = blake3()
        self._crcs: list[int] = []
        self._literals = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o666)
            if layout.size:
                os.posix_fallocate(self._fd, 0, layout.size)
        except OSError as e:
            raise io_failed(path, "creating the file", e) from e

    def write(self, offset: int, data: memoryview) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done : done + _WRITE_BYTES], offset + done)
        except OSError as e:
            raise io_failed(self.path, f"writing at byte {offset + done}", e) from e
        _start_writeback(self._fd, offset, len(data))

    def digest(self, slot: int, data: memoryview) -> None:
        """Take in the next bytes of a slot."""
        while self._literals <= slot:
            self._literal()
        self._hasher.update(data)
        if self._layout.needs_crc:
            self._crcs[slot] = crc32(data, self._crcs[slot])

    def _literal(self) -> None:
        """Write what stands between two slots, now that the CRCs before it are known."""
        index = self._literals
        slots = self._layout.slots
        start = slots[index - 1].stop if index else 0
        text = self._layout.literal(index, self._crcs)
        self.write(start, memoryview(text))
        self._hasher.update(text)
        self._crcs.append(0)
        self._literals += 1

    def finish(self) -> str:
        """Complete, fsync and close the file; returns its BLAKE3."""
        while self._literals <= len(self._layout.slots):
            self._literal()
        try:
            os.fsync(self._fd)
        except OSError as e:
            raise io_failed(self.path, "fsync", e) from e
        finally:
            self.close()
        return self._hasher.hexdigest()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
