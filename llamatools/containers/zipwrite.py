"""The bytes around the data in a zip archive of stored records whose sizes are known beforehand.

Every byte depends on names, sizes and CRCs only: the time is always the zip format's first day.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections cited as "APPNOTE").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from struct import pack

_VERSION, _VERSION_ZIP64 = 20, 45
_UTF8, _DESCRIPTOR = 0x0800, 0x0008
_STORED = 0
_TIME, _DATE = 0, 0x0021
"""1980-01-01 00:00."""
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_ZIP64 = 0x0001
_PADDING = 0x4246
"""Extra field "FB", with which torch pads local headers."""


@dataclass(frozen=True)
class ZipRecord:
    """One stored file of an archive, its local header at `at`."""

    name: str
    at: int
    size: int
    crc: int | None = None
    """None: known only after the data; a data descriptor behind them holds it."""
    align: int = 1
    """The data start at a multiple of this."""

    @cached_property
    def local(self) -> bytes:
        """The local header; with a descriptor to come it has no CRC and sizes (APPNOTE 4.4.4)."""
        known = self.crc is not None
        size = _MAX32 if self._large else self.size if known else 0
        full = self.size if known else 0
        extra = _extra(_ZIP64, pack("<2Q", full, full)) if self._large else b""
        fixed = 30 + len(self._raw_name) + len(extra)
        if self.align > 1:
            extra += _extra(_PADDING, bytes(-(self.at + fixed + 4) % self.align))
        return (
            pack("<4sH", b"PK\3\4", self._version)
            + pack("<4H3L", self._flags, _STORED, _TIME, _DATE, self.crc or 0, size, size)
            + pack("<2H", len(self._raw_name), len(extra))
            + self._raw_name
            + extra
        )

    @property
    def start(self) -> int:
        """Offset of the data."""
        return self.at + len(self.local)

    @property
    def stop(self) -> int:
        """Offset behind the data and their descriptor."""
        return self.start + self.size + len(self.descriptor(0))

    def descriptor(self, crc: int) -> bytes:
        """What follows the data; its sizes have 8 bytes where the local header has zip64."""
        if self.crc is not None:
            return b""
        return pack("<4sL2Q" if self._large else "<4s3L", b"PK\7\10", crc, self.size, self.size)

    def central(self, crc: int) -> bytes:
        """The entry of the central directory."""
        big = [self.size, self.size] if self._large else []
        big += [self.at] if self.at >= _MAX32 else []
        extra = _extra(_ZIP64, pack(f"<{len(big)}Q", *big)) if big else b""
        size = min(self.size, _MAX32)
        version = _VERSION_ZIP64 if big else _VERSION
        return (
            pack("<4s2H", b"PK\1\2", version, version)
            + pack("<4H3L", self._flags, _STORED, _TIME, _DATE, crc, size, size)
            + pack("<5H", len(self._raw_name), len(extra), 0, 0, 0)
            + pack("<2L", 0, min(self.at, _MAX32))
            + self._raw_name
            + extra
        )

    @property
    def _raw_name(self) -> bytes:
        return self.name.encode()

    @property
    def _large(self) -> bool:
        return self.size >= _MAX32

    @property
    def _version(self) -> int:
        return _VERSION_ZIP64 if self._large else _VERSION

    @property
    def _flags(self) -> int:
        return _UTF8 | (_DESCRIPTOR if self.crc is None else 0)


def zip_directory(records: Sequence[ZipRecord], crcs: Sequence[int], at: int) -> bytes:
    """The central directory, starting at offset `at`, and the end records behind it."""
    entries = b"".join(r.central(c) for r, c in zip(records, crcs, strict=True))
    n, size = len(records), len(entries)
    end64 = b""
    if n >= _MAX16 or size >= _MAX32 or at >= _MAX32:
        end64 = pack("<4sQ2H2L", b"PK\6\6", 44, _VERSION_ZIP64, _VERSION_ZIP64, 0, 0)
        end64 += pack("<4Q", n, n, size, at)
        end64 += pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    n = min(n, _MAX16)
    end = pack("<4s4H", b"PK\5\6", 0, 0, n, n)
    end += pack("<2LH", min(size, _MAX32), min(at, _MAX32), 0)
    return entries + end64 + end


def _extra(tag: int, data: bytes) -> bytes:
    return pack("<2H", tag, len(data)) + data
