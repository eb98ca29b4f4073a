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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blake3 import blake3

from llamatools.containers.base import InputFile
from llamatools.engine.newfile import io_failed, write_document
from llamatools.engine.rename import sync_folder
from llamatools.errors import LlamatoolsError

NAME = "journal"
_HEX = 64
_MAX_BYTES = 256 << 20
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
        try:
            data = file.read(0, min(file.size, _MAX_BYTES))
        except LlamatoolsError:
            return []
        finally:
            file.close()
        out: list[Any] = []
        last = ""
        for line in data.split(b"\n")[:-1]:  # what no newline ends was not finished
            found = _parsed(line, last)
            if found is None:
                break
            last, document = found
            out.append(document)
        return out

    def begin(self, documents: Iterable[object]) -> None:
        """A journal of these lines, in place of any other, in one step."""
        lines, last = b"", ""
        for document in documents:
            line, last = _line(document, last)
            lines += line
        new = self.path.with_name(self.path.name + ".new")
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
