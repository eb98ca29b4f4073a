"""Reads the header of a safetensors file, and holds the file to every rule of the format.

    8 bytes   header length, little-endian
    header    JSON: {name: {"dtype", "shape", "data_offsets": [start, stop]}, "__metadata__": {}}
    data      the tensors' bytes, row-major, without holes, overlaps or anything after them

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from llamatools.containers.base import Container, InputFile, StoredTensor
from llamatools.containers.numbers import is_shape, is_size, row_major
from llamatools.containers.problems import refuse_if
from llamatools.dtypes import BY_NAME, DType
from llamatools.errors import BadInput
from llamatools.jsonio import load_json_object
from llamatools.text import listing, safe

MAX_HEADER = 100_000_000
METADATA = "__metadata__"
LENGTH_BYTES = 8

_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_CUT = "if it was downloaded, compare its size with the original and download it again"


def read_safetensors(file: InputFile) -> Container:
    """The tensors of a safetensors file, in file order; nothing of their data is read.

    Raises BadInput naming every rule of the format that the file breaks.
    """
    where = safe(file.path)
    header, data_start = _read_header(file)
    metadata = _metadata(header.pop(METADATA, {}), where)
    problems: list[str] = []
    entries: list[_Entry] = []
    for name, value in header.items():
        bad = [f"{where}: tensor {safe(name)}: {p}" for p in _entry_problems(value)]
        problems += bad
        if not bad:
            entries.append(_Entry.of(name, value))
    refuse_if(problems)

    entries.sort(key=lambda e: (e.start, e.stop))
    layout = _layout_problems(entries, file.size - data_start)
    refuse_if([f"{where}: {p}" for p in layout], hint=_CUT)
    tensors = {e.name: e.stored(file, data_start) for e in entries}
    return Container("safetensors", file, tensors, metadata)


@dataclass(frozen=True)
class _Entry:
    """One tensor of the header; offsets count from the start of the data."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int

    @classmethod
    def of(cls, name: str, value: object) -> _Entry:
        """From a header's value in which _entry_problems found none."""
        assert isinstance(value, dict)
        return cls(name, BY_NAME[value["dtype"]], tuple(value["shape"]), *value["data_offsets"])

    def stored(self, file: InputFile, data_start: int) -> StoredTensor:
        offset = data_start + self.start
        return StoredTensor(self.name, self.dtype, self.shape, file, offset, row_major(self.shape))


def _read_header(file: InputFile) -> tuple[dict[str, object], int]:
    """The header as JSON, and where the data starts."""
    where = safe(file.path)
    if file.size < LENGTH_BYTES:
        raise BadInput(f"{where}: {file.size} bytes are too few for a safetensors file")
    length = int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise BadInput(
            f"{where}: says its header has {length:,} bytes; at most {MAX_HEADER:,} are allowed"
        )
    if LENGTH_BYTES + length > file.size:
        raise BadInput(
            f"{where}: says its header has {length:,} bytes, "
            f"but the file ends after {file.size - LENGTH_BYTES:,} of them",
            hint=_CUT,
        )
    raw = file.read(LENGTH_BYTES, length)
    if not raw.startswith(b"{"):
        raise BadInput(f"{where}: the safetensors header does not start with '{{'")
    header = load_json_object(raw, f"{file.path} (header)", max_bytes=MAX_HEADER)
    return header, LENGTH_BYTES + length


def _metadata(value: object, where: str) -> dict[str, str]:
    if value is None:  # MLX writes it where it has none
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{where}: {METADATA} is not an object")
    refuse_if(
        [
            f"{where}: {METADATA} {safe(key)}: not a string"
            for key, v in value.items()
            if not isinstance(v, str)
        ]
    )
    return value


def _entry_problems(value: object) -> Iterator[str]:
    """What is wrong with one tensor's header value, whatever the other tensors are."""
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        found = listing(value) if isinstance(value, dict) else type(value).__name__
        yield f"expected the fields dtype, shape and data_offsets, found {found or 'none'}"
        return
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    known = BY_NAME.get(dtype) if isinstance(dtype, str) else None
    if known is None:
        yield f"unknown dtype {safe(dtype, 40)}"
    shape_ok = is_shape(shape)
    if not shape_ok:
        yield f"not a shape: {safe(shape, 80)}"
    if not _is_range(offsets):
        yield f"not a pair of offsets: {safe(offsets, 80)}"
    elif known and shape_ok:
        expected = prod(shape) * known.size
        if offsets[1] - offsets[0] != expected:
            yield (
                f"{known} of shape {shape} needs {expected:,} bytes, "
                f"its offsets give {offsets[1] - offsets[0]:,}"
            )


def _is_range(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(is_size(n) for n in value)
        and value[0] <= value[1]
    )


def _layout_problems(entries: Sequence[_Entry], data_size: int) -> Iterator[str]:
    """Holes, overlaps and a wrong end. `entries` are sorted by where they lie."""
    end, last = 0, "the header"
    for e in entries:
        if e.start > end:
            yield f"{e.start - end:,} unused bytes between {safe(last)} and tensor {safe(e.name)}"
        elif e.start < end:
            yield f"tensor {safe(e.name)} overlaps {safe(last)} by {end - e.start:,} bytes"
        if e.stop >= end:
            end, last = e.stop, f"tensor {e.name}"
    if end > data_size:
        yield f"truncated: the tensors need {end:,} bytes of data, the file holds {data_size:,}"
    elif end < data_size:
        yield f"{data_size - end:,} bytes follow the last tensor"
