"""What is finished of an output, a line for each part, written once the part is on disk.

A line is a JSON array of a checksum and a document:

    ["6f7c...",{"files":[...],...}]

The checksum is the BLAKE3 of the line before's and of the document's bytes, so that no line can
change, go or move without all that follow it being disbelieved.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from llamatools.containers.base import InputFile
from llamatools.engine.newfile import io_failed, write_document
from llamatools.engine.rename import sync_folder
from llamatools.errors import LlamatoolsError

NAME = "journal"
NEW = f"{NAME}.new"
_HEX = 64
_MAX_BYTES = 64 << 20
_MAX_LINE = 16 << 20
"""Some hundred bytes for each tensor of the part."""
_MAX_VALUES = 1_000_000
"""Of all lines: a value takes up to 200 bytes of memory."""
_BLOCK = 1 << 18
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = ""

    def read(self) -> list[Any]:
        """The documents of all lines up to the first that is not as it was written."""
        try:
            file = InputFile(self.path)
        except LlamatoolsError:  # there is none, or it is no file
            return []
        out: list[Any] = []
        try:
            out.extend(_believed(file))
        except LlamatoolsError:  # what cannot be read is not believed
            pass
        finally:
            file.close()
        return out

    def begin(self, documents: Iterable[object]) -> None:
        """A journal of these lines, in place of any other, in one step."""
        lines, last = b"", ""
        for document in documents:
            line, last = _line(document, last)
            lines += line
        new = self.path.with_name(NEW)
        try:
            new.unlink(missing_ok=True)
            write_document(new, lines)
            os.replace(new, self.path)  # noqa: PTH105
        except OSError as e:
            raise io_failed(self.path, "writing", e) from e
        sync_folder(self.path.parent)
        self._last = last

    def append(self, document: object) -> None:
        """One more line, on disk on return."""
        line, last = _line(document, self._last)
        try:
            fd = os.open(self.path, _FLAGS)
            try:
                while line:
                    taken = os.write(fd, line)
                    if taken <= 0:
                        raise OSError(errno.EIO, "not a byte was taken")
                    line = line[taken:]
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            raise io_failed(self.path, "writing", e) from e
        self._last = last


def _line(document: object, last: str) -> tuple[bytes, str]:
    text = json.dumps(document, separators=(",", ":")).encode()
    checksum = _checksum(text, last)
    return b'["' + checksum.encode() + b'",' + text + b"]\n", checksum


def _believed(file: InputFile) -> Iterator[Any]:
    """Documents, of a file that may be of any size and hold anything."""
    last, size, values = "", 0, 0
    for line in _lines(file):
        size += len(line) + 1
        values += 1 + sum(map(line.count, (b",", b"[", b"{")))
        if size > _MAX_BYTES or values > _MAX_VALUES:
            return
        found = _parsed(line, last)
        if found is None:
            return
        last, document = found
        yield document


def _lines(file: InputFile) -> Iterator[bytes]:
    """Lines up to the first that is too long; what no newline ends was not finished."""
    held = bytearray()
    for block in file.blocks(_BLOCK):
        *ends, rest = block.split(b"\n")
        for end in ends:
            yield bytes(held) + end
            held.clear()
        held += rest
        if len(held) > _MAX_LINE:
            return


def _parsed(line: bytes, last: str) -> tuple[str, Any] | None:
    """(checksum, document) of a line that follows another; None where it is not as written."""
    head, text, end = line[: _HEX + 4], line[_HEX + 4 : -1], line[-1:]
    checksum = _checksum(text, last)
    if head != b'["' + checksum.encode() + b'",' or end != b"]":
        return None
    try:
        return checksum, json.loads(text)
    except (ValueError, RecursionError):
        return None


def _checksum(text: bytes, last: str) -> str:
    return blake3(last.encode() + text).hexdigest()
