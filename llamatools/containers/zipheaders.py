"""The headers of a zip archive: each entry's in the central directory, and its local one.

A file says twice where an entry's data lie and how long they are. Both have to agree, or one reader
would be shown what another is not.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections cited as "APPNOTE").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from llamatools.containers.base import InputFile
from llamatools.containers.zipend import CentralDirectory
from llamatools.errors import BadInput, Unsupported
from llamatools.text import safe

STORED, DEFLATED = 0, 8

_CENTRAL = Struct("<4s6H3L5H2L")
"""signature, made by, needed, flags, method, time, date, crc, compressed size, size, name length,
extra length, comment length, disk, internal attributes, external attributes, header offset."""
_LOCAL = Struct("<4s5H3L2H")
"""signature, needed, flags, method, time, date, crc, compressed size, size, name length, extra
length."""
_EXTRA = Struct("<2H")

_ZIP64 = 0x0001
_SATURATED = 0xFFFFFFFF
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_HARMLESS = 0x0006 | _DESCRIPTOR | _UTF8
"""Flag bits that leave the data readable: deflate's level, sizes after the data, UTF-8 names."""


@dataclass(frozen=True)
class CentralEntry:
    """One entry of the central directory."""

    raw_name: bytes
    name: str
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    """Absolute offset of the local header."""


def central_entries(file: InputFile, directory: CentralDirectory) -> Iterator[CentralEntry]:
    """Every entry of the central directory, which they have to fill exactly."""
    where = safe(file.path)
    raw = file.read(directory.offset, directory.size)
    at = 0
    for index in range(directory.entries):
        stop = at + _CENTRAL.size
        fields = _CENTRAL.unpack_from(raw, at) if stop <= len(raw) else (b"",)
        if fields[0] != b"PK\1\2":
            raise BadInput(
                f"{where}: the zip directory says it has {directory.entries:,} entries, "
                f"and entry {index:,} is not one"
            )
        lengths = fields[10:13]
        at = stop + sum(lengths)
        if at > len(raw):
            raise BadInput(f"{where}: entry {index:,} runs past the end of the zip directory")
        name_stop = stop + lengths[0]
        extra = raw[name_stop : name_stop + lengths[1]]
        yield _central(fields, raw[stop:name_stop], extra, where)
    if at != len(raw):
        raise BadInput(f"{where}: {len(raw) - at} bytes of the zip directory belong to no entry")


def _central(fields: tuple[int, ...], raw_name: bytes, extra: bytes, where: str) -> CentralEntry:
    flags, method, crc, compressed, size = (fields[i] for i in (3, 4, 7, 8, 9))
    disk, header = fields[13], fields[16]
    name = _decode(raw_name)
    where = f"{where}: zip entry {safe(name)}"
    if flags & ~_HARMLESS:
        raise Unsupported(f"{where} is encrypted or patched (zip flags {flags:#06x})")
    if disk:
        raise Unsupported(f"{where} is said to be in another file")
    size, compressed, header = _resolve_zip64((size, compressed, header), extra, where)
    if method == STORED and size != compressed:
        raise BadInput(f"{where} is stored, and says it has {size} and {compressed} bytes")
    return CentralEntry(raw_name, name, method, crc, compressed, size, header)


def _decode(raw_name: bytes) -> str:
    """Zip names are UTF-8 or code page 437; the flag that tells is not always set."""
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def _resolve_zip64(values: tuple[int, ...], extra: bytes, where: str) -> tuple[int, ...]:
    """Sizes and offset, those that are saturated taken from the zip64 extra field (APPNOTE 4.5.3).

    The field holds only what is saturated, in the order of `values`.
    """
    saturated = [i for i, value in enumerate(values) if value == _SATURATED]
    if not saturated:
        return values
    blocks = [block for tag, block in _extra_blocks(extra, where) if tag == _ZIP64]
    if len(blocks) != 1 or len(blocks[0]) < 8 * len(saturated):
        raise BadInput(f"{where} needs one zip64 field that holds its sizes and offset")
    out = list(values)
    for slot, i in enumerate(saturated):
        out[i] = int.from_bytes(blocks[0][8 * slot : 8 * slot + 8], "little")
    return tuple(out)


def _extra_blocks(extra: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _EXTRA.size <= len(extra):
        tag, size = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if at + size > len(extra):
            raise BadInput(f"{where} has an extra field that runs past its end")
        yield tag, extra[at : at + size]
        at += size


_USUAL_EXTRA = 128
"""Read along with a local header: more than the field that torch aligns records with."""


def data_start(file: InputFile, c: CentralEntry, limit: int) -> int:
    """Where the entry's bytes start, its local header compared with the central entry."""
    where = f"{safe(file.path)}: zip entry {safe(c.name)}"
    name_at = c.header + _LOCAL.size
    if name_at + len(c.raw_name) > limit:
        raise BadInput(f"{where}: its local header is said to lie at byte {c.header}")
    raw = file.read(c.header, min(limit - c.header, _LOCAL.size + len(c.raw_name) + _USUAL_EXTRA))
    signature, _, flags, method, _, _, crc, compressed, size, n_name, n_extra = _LOCAL.unpack_from(
        raw
    )
    if (
        signature != b"PK\3\4"
        or n_name != len(c.raw_name)
        or not raw.startswith(c.raw_name, _LOCAL.size)
    ):
        raise BadInput(f"{where}: another local header, or none, at byte {c.header}")
    start: int = name_at + n_name + n_extra
    if start > limit:
        raise BadInput(f"{where}: its local header runs into the zip directory")
    extra = raw[name_at - c.header + n_name :][:n_extra]
    if len(extra) < n_extra:
        extra = file.read(start - n_extra, n_extra)
    _check_twin(c, (flags, method, crc, compressed, size), extra, where)
    return start


def _check_twin(c: CentralEntry, local: tuple[int, ...], extra: bytes, where: str) -> None:
    """Raise where a local header contradicts the central entry."""
    flags, method, crc, compressed, size = local
    if flags & ~_HARMLESS:
        raise Unsupported(f"{where} is encrypted or patched (zip flags {flags:#06x})")
    late = (0, _SATURATED) if flags & _DESCRIPTOR else ()  # filled in behind the data instead
    if not late:
        size, compressed = _resolve_zip64((size, compressed), extra, where)
    for what, here, there, placeholders in (
        ("method", method, c.method, ()),
        ("CRC-32", crc, c.crc, late),
        ("compressed size", compressed, c.compressed, late),
        ("size", size, c.size, late),
    ):
        if here != there and here not in placeholders:
            raise BadInput(
                f"{where}: {what} is {here} in its local header, {there} in the directory"
            )
