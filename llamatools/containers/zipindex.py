"""The index of a zip archive, read so that no two readers could see two archives in one file.

Everything said twice in a zip (zipend, zipheaders) has to agree; here, names are held to be unique
and entries to lie apart from each other, from the first byte on. Only headers are read; an entry's
bytes come through ZipIndex.read_small, or by its offset.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from zlib_ng.zlib_ng import crc32

from llamatools.containers.base import InputFile
from llamatools.containers.problems import refuse_if
from llamatools.containers.zipend import find_central_directory
from llamatools.containers.zipheaders import (
    DEFLATED,
    STORED,
    CentralEntry,
    central_entries,
    data_start,
)
from llamatools.errors import BadInput, Unsupported
from llamatools.text import listing, nbytes, safe

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 16_000_000


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
    found = sorted(central_entries(file, directory), key=lambda c: c.header)
    refuse_if([f"{where}: {p}" for p in _name_problems(found)])
    root = found[0].name.partition("/")[0]
    starts = [data_start(file, c, directory.offset) for c in found]
    refuse_if([f"{where}: {p}" for p in _layout_problems(found, starts, directory.offset)])
    entries = [
        ZipEntry(c.name[len(root) + 1 :], c.method, c.crc, c.compressed, c.size, start)
        for c, start in zip(found, starts, strict=True)
    ]
    return ZipIndex(file, root, {e.name: e for e in entries}, any(e.crc for e in entries))


def _name_problems(found: list[CentralEntry]) -> Iterator[str]:
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


def _layout_problems(found: list[CentralEntry], starts: list[int], limit: int) -> Iterator[str]:
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
