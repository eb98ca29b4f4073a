"""Finds a zip archive's central directory from the records at the end of the file."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, Unsupported
from llamatools.text import safe

_END = Struct("<4s4H2LH")
"""signature, disk, directory's disk, entries here, entries, size, offset, comment length."""
_END64 = Struct("<4sQ2H2L4Q")
"""signature, size of the rest, made by, needed, disk, directory's disk, entries here, entries,
size, offset."""
_LOCATOR = Struct("<4sLQL")
"""signature, disk of the end64 record, its offset, number of disks."""

_MAX_COMMENT = 0xFFFF
_CUT = "the file is probably truncated: compare its size with the original and download it again"


@dataclass(frozen=True)
class CentralDirectory:
    """Where the directory lies, and how many entries it says it has."""

    offset: int
    size: int
    entries: int


def find_central_directory(file: InputFile) -> CentralDirectory:
    """The directory of a zip archive that fills the whole file.

    Raises BadInput where the end records are absent, disagree, or leave bytes unaccounted for;
    Unsupported for an archive in several files.
    """
    end_at, end = _find_end(file)
    _, disk, directory_disk, here, entries, size, offset, _ = end
    stop = end_at
    if end64 := _find_end64(file, end_at):
        stop, (disk, directory_disk, here, *big) = end64
        for short, full, limit in zip(
            (entries, size, offset), big, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True
        ):
            if short not in (full, limit):
                raise BadInput(
                    f"{safe(file.path)}: the zip end records disagree: {short} and {full}"
                )
        entries, size, offset = big
    if disk or directory_disk or here != entries:
        raise Unsupported(f"{safe(file.path)}: zip archive split over several files")
    if offset + size != stop:
        raise BadInput(
            f"{safe(file.path)}: the zip directory should end at byte {stop}, "
            f"and is said to be {size} bytes from byte {offset}"
        )
    return CentralDirectory(offset, size, entries)


def _find_end(file: InputFile) -> tuple[int, tuple[int, ...]]:
    """Offset and fields of the end record: the last one, whose comment ends with the file."""
    tail_size = min(file.size, _END.size + _MAX_COMMENT)
    tail_at = file.size - tail_size
    tail = file.read(tail_at, tail_size)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise BadInput(f"{safe(file.path)}: no end record of a zip archive", hint=_CUT)
    end = _END.unpack_from(tail, at)
    if at + _END.size + end[-1] != len(tail):
        raise BadInput(
            f"{safe(file.path)}: the zip archive's end record does not end the file", hint=_CUT
        )
    return tail_at + at, end


def _find_end64(file: InputFile, end_at: int) -> tuple[int, tuple[int, ...]] | None:
    """Offset of the zip64 end record and its last six fields, where there is one."""
    locator_at = end_at - _LOCATOR.size
    if locator_at < 0:
        return None
    signature, _, at, _ = _LOCATOR.unpack(file.read(locator_at, _LOCATOR.size))
    if signature != b"PK\6\7":
        return None
    if at + _END64.size <= locator_at:
        signature, rest, _, _, *fields = _END64.unpack(file.read(at, _END64.size))
        # The size field leaves out the signature and itself; it must reach the locator exactly.
        if signature == b"PK\6\6" and at + 12 + rest == locator_at:
            return at, tuple(fields)
    raise BadInput(f"{safe(file.path)}: the zip64 end record is not where it is said to be")
