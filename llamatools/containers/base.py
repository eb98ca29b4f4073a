"""What every container gives: named tensors that say where their bytes lie."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from llamatools.containers import links
from llamatools.dtypes import DType
from llamatools.errors import BadInput, IOFailed
from llamatools.text import safe

_BLOCK_BYTES = 4 << 20


class InputFile:
    """A regular file opened for reading only, and read only at explicit offsets.

    O_NONBLOCK keeps a FIFO from hanging the open; fstat then refuses whatever is not a file.
    O_NOFOLLOW keeps to what was looked at: a link is followed by links.target, or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = _open(path)
        except FileNotFoundError as e:
            raise BadInput(f"{safe(path)}: no such file") from e
        except OSError as e:
            raise IOFailed(f"{safe(path)}: cannot be opened: {e.strerror}") from e
        except ValueError as e:  # a NUL, or what the file system's encoding does not have
            raise BadInput(f"{safe(path)}: not a file name") from e
        info = self._stat()
        if not S_ISREG(info.st_mode):
            self.close()
            raise BadInput(f"{safe(path)}: is not a regular file")
        self.size = info.st_size
        self.stamp = info.st_mtime_ns, info.st_ctime_ns
        """When it was changed the last time, its data and anything of it, in nanoseconds."""

    @property
    def name(self) -> str:
        return self.path.name

    def _stat(self) -> os.stat_result:
        try:
            return os.fstat(self._fd)
        except OSError as e:
            raise IOFailed(f"{safe(self.path)}: cannot be looked at: {e.strerror}") from e

    @property
    def changed(self) -> bool:
        """Whether somebody wrote to it since it was opened."""
        info = self._stat()
        return (info.st_size, info.st_mtime_ns) != (self.size, self.stamp[0])

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`; raises BadInput past the end of the file."""
        if offset + size > self.size:  # before memory is taken for what is not there
            raise BadInput(
                f"{safe(self.path)}: ends at byte {self.size}, "
                f"expected data up to byte {offset + size}"
            )
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill a writable byte view from `offset`."""
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as e:
                raise IOFailed(
                    f"{safe(self.path)}: reading at byte {offset + done} failed: {e.strerror}"
                ) from e
            if got == 0:
                raise BadInput(
                    f"{safe(self.path)}: ends at byte {offset + done}, "
                    f"expected data up to byte {offset + len(view)}"
                )
            done += got

    def blocks(self, size: int = _BLOCK_BYTES) -> Iterator[bytes]:
        """All of it, in order."""
        for at in range(0, self.size, size):
            yield self.read(at, min(size, self.size - at))

    def forget(self) -> None:
        """Ask the system to drop its copy, so that the next read is the disk's; it may not."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"InputFile({str(self.path)!r})"


_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


def _open(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
    target = links.target(path)
    if target is None:
        raise BadInput(f"{safe(path)}: a link that leads out of its folder, or to nowhere")
    return os.open(target, _FLAGS)


@dataclass(frozen=True)
class Record:
    """A run of a file under a checksum: a zip entry's bytes. `crc` None: none was stored."""

    start: int
    size: int
    crc: int | None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a file; nothing of its data has been read."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: InputFile = field(repr=False, compare=False)
    offset: int
    """Absolute file offset of the first element, in bytes."""
    strides: tuple[int, ...]
    """In elements, as torch counts them."""
    record: Record | None = field(default=None, repr=False, compare=False)

    @cached_property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.size

    @cached_property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        expected = 1
        for n, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and s != expected and self.numel:
                return False
            expected *= n
        return True


@dataclass(frozen=True)
class Container:
    """One opened file: its kind, its tensors in file order, its free-form metadata."""

    kind: str
    """"torch" (zip archive with a pickle) or "safetensors"."""
    file: InputFile
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """Where one tensor's bytes go in a file being written."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


class FileLayout(Protocol):
    """A file planned from names, dtypes and shapes alone: every offset is known beforehand.

    The file is literal(0), slot 0, literal(1), slot 1, ... literal(len(slots)).
    """

    @property
    def slots(self) -> tuple[Slot, ...]: ...

    @property
    def size(self) -> int: ...

    @property
    def needs_crc(self) -> bool:
        """Whether literal() uses the CRCs it is given."""
        ...

    def literal(self, index: int, crcs: list[int]) -> bytes:
        """The bytes before slot `index`; `crcs` holds the CRC-32 of every earlier slot."""
        ...
