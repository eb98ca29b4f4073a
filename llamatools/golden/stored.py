"""Numbers out of containers that nobody vouches for: shapes and types checked before data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from llamatools.containers.base import StoredTensor
from llamatools.errors import BadInput
from llamatools.golden.sketch import Floats
from llamatools.text import nbytes, safe

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32")
_MAX_BYTES = 4 << 30
"""Of what is read at once."""


def read_numbers(t: StoredTensor, start: int = 0, stop: int | None = None) -> Floats:
    """Rows start .. stop of a tensor of any type in FLOATS or INTEGERS, as float64 or int64."""
    shape = ((stop if stop is not None else t.shape[0]) - start, *t.shape[1:])
    row = prod(t.shape[1:]) * t.dtype.size
    size = prod(shape) * t.dtype.size
    if size > _MAX_BYTES:
        raise BadInput(f"{safe(t.file.path)}: {safe(t.name)}: {nbytes(size)} are too much")
    data = t.file.read(t.offset + start * row, size)
    if t.dtype.name == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        out = wide.view(np.float32).astype(np.float64)
    else:
        found = np.frombuffer(data, _NUMPY[t.dtype.name])
        out = found.astype(np.float64 if t.dtype.name in FLOATS else np.int64)
    return out.reshape(shape)


def finite(values: Floats, what: str) -> Floats:
    """BadInput where a reference holds NaN or infinity."""
    if not np.isfinite(values).all():
        raise BadInput(f"{what}: holds NaN or infinity")
    return values


@dataclass(frozen=True)
class InFile:
    """Logits that lie in a safetensors file; implements Logits."""

    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    def read(self, start: int, stop: int) -> Floats:
        where = f"{safe(self.tensor.file.path)}: {safe(self.tensor.name)}"
        return finite(read_numbers(self.tensor, start, stop), where)
