"""Plans a safetensors file from names, dtypes and shapes: header first, then the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from llamatools.containers.base import Slot
from llamatools.containers.safetensors_read import LENGTH_BYTES, MAX_HEADER, METADATA
from llamatools.dtypes import DType
from llamatools.errors import NotRepresentable
from llamatools.text import nbytes, safe

_ALIGN = 8
"""The data starts at a multiple of this, as the format's own library has it."""


@dataclass(frozen=True)
class SafetensorsLayout:
    """A planned safetensors file; implements base.FileLayout."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int
    needs_crc: bool = False

    def literal(self, index: int, crcs: list[int]) -> bytes:
        """The header before the first slot; nothing lies between slots."""
        return self.header if index == 0 else b""


def safetensors_layout(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str]
) -> SafetensorsLayout:
    """A file holding (name, dtype, shape) in the order given, names unique.

    Raises NotRepresentable for a tensor named "__metadata__" and for a header over 100 MB.
    """
    header = _header(tensors, metadata)
    slots = []
    at = len(header)
    for name, dtype, shape in tensors:
        stop = at + prod(shape) * dtype.size
        slots.append(Slot(name, dtype, shape, at, stop))
        at = stop
    return SafetensorsLayout(header, tuple(slots), at)


def _header(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Length and JSON, padded with spaces."""
    entries: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, shape in tensors:
        if name in entries or name == METADATA:
            raise NotRepresentable(f"safetensors cannot hold a second tensor named {safe(name)}")
        stop = at + prod(shape) * dtype.size
        entries[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": (at, stop)}
        at = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > MAX_HEADER:
        raise NotRepresentable(
            f"{len(tensors):,} tensors need a safetensors header of {nbytes(len(text))}; "
            f"the format allows {nbytes(MAX_HEADER)}",
            hint="write more, smaller shards",
        )
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
