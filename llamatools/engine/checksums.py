"""Checks the CRC-32 that a zip archive stores for a record, from the pieces a run happens to read.

Pieces come in any order and from any thread; CRCs of neighbours are combined arithmetically, so
nothing is read twice for it. A run may read parts again, in other pieces: a record is checked where
some pieces make it up. One of which only a part was needed cannot be checked, and is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from zlib_ng.zlib_ng import crc32, crc32_combine

from llamatools.containers.base import InputFile, Record, StoredTensor
from llamatools.errors import BadInput
from llamatools.expr.bits import Bits, as_bytes
from llamatools.expr.context import PlainContext
from llamatools.text import safe

_Key = tuple[InputFile, Record]
_Pieces = dict[tuple[int, int], int]
"""(offset, size) -> CRC"""


class RecordChecks:
    def __init__(self) -> None:
        self._pieces: dict[_Key, _Pieces] = {}
        self._names: dict[_Key, str] = {}
        self._lock = threading.Lock()

    def saw(self, tensor: StoredTensor, record: Record, offset: int, data: Bits) -> None:
        """Take note of a tensor's bytes read from absolute `offset`.

        A strided tensor is read in many small pieces that overlap or leave gaps: not worth it.
        """
        size, crc = (data.nbytes, crc32(as_bytes(data))) if tensor.contiguous else (0, 0)
        with self._lock:
            self._pieces.setdefault((tensor.file, record), {})[offset, size] = crc
            self._names[tensor.file, record] = tensor.name

    def seen(self, files: Sequence[InputFile]) -> list[list[Any]]:
        """What was taken note of, as JSON has it; files by their places in the list."""
        place = {file: i for i, file in enumerate(files)}
        out: list[list[Any]] = []
        for (file, record), pieces in self._pieces.items():
            whole = _combine(record, pieces)
            known = pieces if whole is None else {(record.start, record.size): whole}
            out.append(
                [
                    [place[file], record.start, record.size, record.crc],
                    self._names[file, record],
                    [[*piece, crc] for piece, crc in known.items()],
                ]
            )
        return out

    def add(self, seen: Iterable[Sequence[Any]], files: Sequence[InputFile]) -> None:
        """Take in what another process saw, of files in the same order."""
        for (place, *record), name, pieces in seen:
            key = files[place], Record(*record)
            known = self._pieces.setdefault(key, {})
            known.update({(offset, size): crc for offset, size, crc in pieces})
            self._names.setdefault(key, name)

    def finish(self) -> tuple[int, int]:
        """(records checked, records read only in part); BadInput names every mismatch."""
        problems = []
        checked = partial = 0
        for (file, record), pieces in self._pieces.items():
            found = _combine(record, pieces)
            if found is None:
                partial += 1
                continue
            checked += 1
            if found != record.crc:
                problems.append(
                    f"{safe(file.path)}: {safe(self._names[file, record])}: the data at bytes "
                    f"{record.start} to {record.start + record.size} has CRC-32 {found:08x}, "
                    f"the archive says {record.crc:08x}"
                )
        if problems:
            raise BadInput(problems, hint="the file is damaged: fetch it again")
        return checked, partial


class CheckedContext(PlainContext):
    """Shows what is read to those who check a torch archive's CRCs."""

    def __init__(self, capacity: int, checks: RecordChecks) -> None:
        super().__init__(capacity)
        self._checks = checks

    def read(self, tensor: StoredTensor, offset: int, out: Bits) -> None:
        super().read(tensor, offset, out)
        if tensor.record is not None and tensor.record.crc is not None:
            self._checks.saw(tensor, tensor.record, offset, out)


def _combine(record: Record, pieces: _Pieces) -> int | None:
    """The CRC of the whole record; None where no pieces follow each other from end to end."""
    up_to = {record.start: 0}  # CRC of the record's bytes before each place that pieces lead to
    for (offset, size), crc in sorted(pieces.items()):
        if offset in up_to and offset + size not in up_to:
            up_to[offset + size] = crc32_combine(up_to[offset], crc, size)
    return up_to.get(record.start + record.size)
