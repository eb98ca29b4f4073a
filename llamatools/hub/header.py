"""The header of a safetensors file that lies elsewhere, in one request where its length allows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llamatools.containers.base import InputFile
from llamatools.containers.safetensors_read import LENGTH_BYTES, MAX_HEADER
from llamatools.errors import IOFailed
from llamatools.hub.wire import Wire
from llamatools.text import safe

USUAL = 100_000
"""Bytes asked for where nothing tells how many tensors there are: few headers have more."""
LEAST = 1 << 13
_ENTRY = 140
"""A tensor's type, shape and offsets, written out, and some more."""
_KIND = 512
"""Bytes that tell what a file is."""


class HeldFile(InputFile):
    """A file of which only the first bytes are here."""

    def __init__(self, path: Path, size: int, head: bytes) -> None:
        self.path = path
        self.size = size
        self._fd = -1
        self.head = head

    def read_into(self, view: memoryview, offset: int) -> None:
        stop = offset + len(view)
        if stop > len(self.head):
            raise IOFailed(
                f"{safe(self.path)}: bytes {offset} to {stop - 1} were not fetched, only its "
                f"header was",
                hint="download the file, and give its folder",
            )
        view[:] = self.head[offset:stop]


def first_bytes(tensors: Iterable[str]) -> int:
    """How much to ask for, so that it holds the header of a file with these tensors."""
    return max(LEAST, LEAST // 2 + sum(len(name) + _ENTRY for name in tensors))


def fetch_header(
    wire: Wire, url: str, file: str, path: Path, first: int, listed: int | None
) -> HeldFile:
    """The file, as far as it is needed to know its tensors. `path` is its name for messages.

    What its first bytes claim is not judged here, only held to what a header may be; whoever reads
    the header does. `listed` is its size as listed.
    """
    place, timeout = wire.place, wire.place.settings.download_timeout
    part = wire.part(url, file, 0, first, timeout, _needed)
    size = listed if part.size is None else part.size
    if size is None:
        raise place.failed(file, "does not tell how large the file is")
    if listed not in (None, size):
        raise place.failed(file, f"lists {listed:,} bytes, and then has {size:,} of it")
    head, stop = part.data, _needed(bytearray(part.data[:LENGTH_BYTES]))
    if len(head) < stop <= size:
        more = wire.part(url, file, len(head), stop, timeout, lambda found: stop)
        if more.size not in (None, size):
            raise place.failed(file, f"has {size:,} bytes of it, and then {more.size:,}")
        head += more.data
    return HeldFile(path, size, head)


def _needed(found: bytearray) -> int:
    """Where the header ends, as far as its length is known and one that a header may have."""
    length = int.from_bytes(found[:LENGTH_BYTES], "little")
    if len(found) < LENGTH_BYTES or length > MAX_HEADER:
        return _KIND
    return max(_KIND, LENGTH_BYTES + length)
