"""Plans a torch checkpoint from names, dtypes and shapes: what torch.save would write, streamed.

    NAME/data.pkl  NAME/byteorder  NAME/data/0  NAME/data/1 ...  NAME/version  central directory

Sizes are known before any data is, CRCs only after it. So the CRC of each tensor's record follows
its bytes, in a data descriptor, and the central directory repeats it.

Left out: what newer torch adds for itself (.format_version, .storage_alignment), by which a reader
may compute offsets instead of looking them up; no reader needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from zlib_ng.zlib_ng import crc32

from llamatools.containers.base import Slot
from llamatools.containers.picklewrite import state_dict_pickle
from llamatools.containers.zipwrite import ZipRecord, zip_directory
from llamatools.dtypes import DType
from llamatools.errors import NotRepresentable, UsageError
from llamatools.text import listing, safe

ALIGN = 64
"""Tensors start at multiples of this, as in torch's own files, so that they can be mapped."""

_BYTEORDER, _VERSION = b"little", b"3\n"


@dataclass(frozen=True)
class _Small:
    """A record whose bytes are known beforehand."""

    record: ZipRecord
    data: bytes

    @classmethod
    def at(cls, offset: int, name: str, data: bytes) -> _Small:
        return cls(ZipRecord(name, offset, len(data), crc32(data)), data)

    @property
    def whole(self) -> bytes:
        return self.record.local + self.data


@dataclass(frozen=True)
class TorchLayout:
    """A planned torch checkpoint; implements base.FileLayout."""

    head: tuple[_Small, ...]
    records: tuple[ZipRecord, ...]
    """One for each slot."""
    tail: tuple[_Small, ...]
    slots: tuple[Slot, ...]
    size: int
    needs_crc: bool = True

    def literal(self, index: int, crcs: list[int]) -> bytes:
        """The end of the record before slot `index`, and the header of its own."""
        before = (
            self.records[index - 1].descriptor(crcs[index - 1])
            if index
            else b"".join(s.whole for s in self.head)
        )
        after = (
            self.records[index].local
            if index < len(self.records)
            else b"".join(s.whole for s in self.tail) + self._directory(crcs)
        )
        return before + after

    def _directory(self, crcs: Sequence[int]) -> bytes:
        head, tail = ([s.record for s in part] for part in (self.head, self.tail))
        return zip_directory(
            [*head, *self.records, *tail],
            [*(r.crc or 0 for r in head), *crcs, *(r.crc or 0 for r in tail)],
            tail[-1].stop,
        )


def torch_layout(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]], archive_name: str
) -> TorchLayout:
    """A file holding (name, dtype, shape) in the order given, each tensor in its own storage.

    `archive_name` is the root folder in the archive; torch uses the file's name less its ending.
    Raises NotRepresentable where two tensors have one name, UsageError for an `archive_name` that
    is not a plain folder name.
    """
    if archive_name in ("", ".", "..") or any(c in archive_name for c in "/\\\0"):
        raise UsageError(f"{safe(archive_name)!r} cannot be the name of a folder in an archive")
    if twice := [name for name, n in Counter(t[0] for t in tensors).items() if n > 1]:
        raise NotRepresentable(f"a state dict cannot hold two tensors named {listing(twice)}")
    pickle = _Small.at(0, f"{archive_name}/data.pkl", state_dict_pickle(tensors))
    order = _Small.at(pickle.record.stop, f"{archive_name}/byteorder", _BYTEORDER)
    at = order.record.stop
    records: list[ZipRecord] = []
    slots: list[Slot] = []
    for i, (name, dtype, shape) in enumerate(tensors):
        record = ZipRecord(f"{archive_name}/data/{i}", at, prod(shape) * dtype.size, align=ALIGN)
        records.append(record)
        slots.append(Slot(name, dtype, shape, record.start, record.start + record.size))
        at = record.stop
    version = _Small.at(at, f"{archive_name}/version", _VERSION)
    layout = TorchLayout((pickle, order), tuple(records), (version,), tuple(slots), 0)
    directory = layout._directory([0] * len(records))
    return replace(layout, size=version.record.stop + len(directory))
