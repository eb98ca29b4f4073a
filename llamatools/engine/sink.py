"""One output file: bytes go to their offsets from any thread, digests follow in file order."""

from __future__ import annotations

import ctypes
from pathlib import Path

from blake3 import blake3
from zlib_ng.zlib_ng import crc32

from llamatools.containers.base import FileLayout
from llamatools.engine.newfile import NewFile

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


class Sink:
    """`write` in any order, `digest` the same pieces in file order, `complete`, `finish`."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self._layout = layout
        self._hasher = blake3()
        self._crcs: list[int] = []
        self._literals = 0
        self._file = NewFile(path, layout.size)

    def write(self, offset: int, data: memoryview) -> None:
        self._file.write(offset, data)
        _start_writeback(self._file.fileno(), offset, len(data))

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

    def complete(self) -> str:
        """Write what follows the last slot; returns the file's BLAKE3."""
        while self._literals <= len(self._layout.slots):
            self._literal()
        return self._hasher.hexdigest()

    def finish(self) -> None:
        """fsync and close a complete file."""
        self._file.finish()

    def drop(self) -> None:
        self._file.drop()
