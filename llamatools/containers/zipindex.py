"""The index of a zip archive, read so that no two readers could see two archives in one file.

Everything said twice in a zip (local header and central entry, end record and its zip64 twin) has
to agree, names are unique, entries lie apart from each other, and nothing precedes them. Only
headers are read here; an entry's bytes come through ZipIndex.read_small, or by its offset.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections cited as "APPNOTE").
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

from zlib_ng.zlib_ng import crc32

from llamatools.containers.base import InputFile
from llamatools.containers.problems import refuse_if
from llamatools.containers.zipend import CentralDirectory, find_central_directory
from llamatools.errors import BadInput, Unsupported
from llamatools.text import listing, nbytes, safe

MAX_ENTRIES = 1_000_000
MAX_DIRECTORY = 256_000_000

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
class ZipEntry:
    """One file of the archive."""

    name: str
    """Below the root folder."""
    method: int
    crc: int
    compressed: int
    size: int
    start: int
    """Absolute offset of the (compressed) bytes."""


@dataclass(frozen=True)
class ZipIndex:
    """The archive's one root folder, and what lies in it."""

    file: InputFile
    root: str
    entries: Mapping[str, ZipEntry]
    has_crcs: bool
    """False where every CRC is 0: whoever wrote the archive left them out."""

    def read_small(self, name: str, limit: int) -> bytes:
        """The bytes of a stored or deflated entry of at most `limit` bytes, CRC checked.

        Raises BadInput where the entry is absent, larger, or not what the index says.
        """
        where = f"{safe(self.file.path)}: entry {safe(name)}"
        entry = self.entries.get(name)
        if entry is None:
            raise BadInput(f"{where} is missing")
        # Deflate expands by far less than a tenth, so the packed size bounds the read as well.
        if entry.size > limit or entry.compressed > limit + limit // 10 + 64:
            raise BadInput(
                f"{where} has {entry.size:,} bytes ({entry.compressed:,} packed), "
                f"more than the {limit:,} allowed"
            )
        raw = self.file.read(entry.start, entry.compressed)
        data = raw if entry.method == STORED else _inflate(raw, entry, where)
        if self.has_crcs and crc32(data) != entry.crc:
            raise BadInput(
                f"{where}: CRC-32 is {crc32(data):08x}, the archive says {entry.crc:08x}",
                hint="the file is damaged; download or copy it again",
            )
        return data


def read_zip_index(file: InputFile) -> ZipIndex:
    """The entries of a zip archive under its one root folder, in the order they lie in the file.

    Raises BadInput or Unsupported where the archive breaks a rule of this module.
    """
    where = safe(file.path)
    directory = find_central_directory(file)
    if directory.entries > MAX_ENTRIES or directory.size > MAX_DIRECTORY:
        raise BadInput(
            f"{where}: a zip directory of {directory.entries:,} entries and "
            f"{nbytes(directory.size)}; {MAX_ENTRIES:,} and {nbytes(MAX_DIRECTORY)} are allowed"
        )
    found = sorted(_central_entries(file, directory), key=lambda c: c.header)
    refuse_if([f"{where}: {p}" for p in _name_problems(found)])
    root = found[0].name.partition("/")[0]
    starts = [_data_start(file, c, directory.offset) for c in found]
    refuse_if([f"{where}: {p}" for p in _layout_problems(found, starts, directory.offset)])
    entries = {
        name: ZipEntry(name, c.method, c.crc, c.compressed, c.size, start)
        for c, start in zip(found, starts, strict=True)
        for name in [c.name[len(root) + 1 :]]
    }
    return ZipIndex(file, root, entries, has_crcs=any(c.crc for c in found))


@dataclass(frozen=True)
class _Central:
    """One entry of the central directory."""

    raw_name: bytes
    name: str
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    """Absolute offset of the local header."""


def _central_entries(file: InputFile, directory: CentralDirectory) -> Iterator[_Central]:
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


def _central(fields: tuple[int, ...], raw_name: bytes, extra: bytes, where: str) -> _Central:
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
    return _Central(raw_name, name, method, crc, compressed, size, header)


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


def _name_problems(found: list[_Central]) -> Iterator[str]:
    """Names have to be relative, plain, unique, and all under one folder."""
    if not found:
        yield "an empty zip archive"
    seen: set[str] = set()
    roots: set[str] = set()
    for c in found:
        parts = c.name.removesuffix("/").split("/")
        if not {"", ".", ".."}.isdisjoint(parts) or "\\" in c.name or "\0" in c.name:
            yield f"zip entry {safe(c.name)!r}: not a plain relative path"
        elif "/" not in c.name:
            yield f"zip entry {safe(c.name)} lies outside a folder; torch files have exactly one"
        if c.name in seen:
            yield f"zip entry {safe(c.name)} is there more than once"
        seen.add(c.name)
        roots.add(parts[0])
    if len(roots) > 1:
        yield f"zip entries lie in more than one folder: {listing(sorted(roots))}"


def _data_start(file: InputFile, c: _Central, limit: int) -> int:
    """Where the entry's bytes start, its local header compared with the central entry."""
    where = f"{safe(file.path)}: zip entry {safe(c.name)}"
    name_at = c.header + _LOCAL.size
    if name_at + len(c.raw_name) > limit:
        raise BadInput(f"{where}: its local header is said to lie at byte {c.header}")
    raw = file.read(c.header, _LOCAL.size + len(c.raw_name))
    signature, _, flags, method, _, _, crc, compressed, size, n_name, n_extra = _LOCAL.unpack_from(
        raw
    )
    if signature != b"PK\3\4" or n_name != len(c.raw_name) or raw[_LOCAL.size :] != c.raw_name:
        raise BadInput(f"{where}: another local header, or none, at byte {c.header}")
    start: int = name_at + n_name + n_extra
    if start > limit:
        raise BadInput(f"{where}: its local header runs into the zip directory")
    if flags & ~_HARMLESS:
        raise Unsupported(f"{where} is encrypted or patched (zip flags {flags:#06x})")
    late = (0, _SATURATED) if flags & _DESCRIPTOR else ()  # filled in behind the data instead
    if not late:
        extra = file.read(start - n_extra, n_extra)
        size, compressed = _resolve_zip64((size, compressed), extra, where)
    for what, local, central, placeholders in (
        ("method", method, c.method, ()),
        ("CRC-32", crc, c.crc, late),
        ("compressed size", compressed, c.compressed, late),
        ("size", size, c.size, late),
    ):
        if local != central and local not in placeholders:
            raise BadInput(
                f"{where}: {what} is {local} in its local header, {central} in the directory"
            )
    return start


def _layout_problems(found: list[_Central], starts: list[int], limit: int) -> Iterator[str]:
    """Entries, each from its local header to the end of its data, have to lie apart."""
    if found[0].header != 0:
        yield f"{found[0].header} bytes precede the zip archive"
    stops = [start + c.compressed for start, c in zip(starts, found, strict=True)]
    for (a, b), stop in zip(pairwise(found), stops, strict=False):
        if stop > b.header:
            yield f"zip entry {safe(a.name)} overlaps zip entry {safe(b.name)}"
    if stops[-1] > limit:
        yield f"zip entry {safe(found[-1].name)} overlaps the zip directory"


def _inflate(raw: bytes, entry: ZipEntry, where: str) -> bytes:
    """Never more than the size the index says, however much `raw` would give."""
    if entry.method != DEFLATED:
        raise Unsupported(f"{where} uses zip compression method {entry.method}")
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decoder.decompress(raw, entry.size + 1)
    except zlib.error:
        raise BadInput(f"{where}: damaged deflate data") from None
    if len(data) != entry.size or not decoder.eof or decoder.unused_data:
        raise BadInput(f"{where} does not inflate to the {entry.size} bytes the archive says")
    return data
