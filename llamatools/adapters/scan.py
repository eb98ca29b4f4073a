"""One look at all of an adapter's numbers, which are few: are they numbers, and what digest?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from blake3 import blake3

from llamatools.adapters.names import parse_name
from llamatools.adapters.part import Part
from llamatools.containers.base import StoredTensor
from llamatools.dtypes import BF16, F16, F32, DType
from llamatools.errors import BadInput
from llamatools.expr.bits import Bits, as_bytes, bits_dtype
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Read
from llamatools.text import listing

_BLOCK_BYTES = 2 << 20

# The exponent's bits: all of them are set in infinities and NaN, and in nothing else.
_EXPONENT: Mapping[DType, int] = {F32: 0x7F800000, F16: 0x7C00, BF16: 0x7F80}


def digest(tensors: Iterable[StoredTensor], parts: Mapping[str, Part]) -> str:
    """BLAKE3 of all tensors and of how they are scaled. BadInput names what is not finite."""
    h = blake3(b"llamatools adapter 1\n")
    strange = []
    for t in sorted(tensors, key=lambda t: _label(t.name)):
        h.update(f"{_label(t.name)} {t.dtype.name} {'x'.join(map(str, t.shape))}\n".encode())
        finite = True
        for block in _blocks(t):
            h.update(as_bytes(block))
            finite = finite and is_finite(block, t.dtype)
        if not finite:
            strange.append(t.name)
    if strange:
        raise BadInput(
            f"{len(strange)} tensors hold NaN or infinity: {listing(strange)}",
            hint="the training went wrong, or the file is damaged",
        )
    for module in sorted(parts):
        low = parts[module].low_rank
        if low is not None:
            h.update(f"{module} {low.scale!r}\n".encode())
    return h.hexdigest()


def _label(name: str) -> str:
    """What a tensor is, whichever of PEFT's forms its name has."""
    parsed = parse_name(name)
    return f"{parsed.module} {parsed.role}" if parsed else name


def is_finite(block: Bits, dtype: DType) -> bool:
    """Whether elements given as bits are all numbers."""
    exponent = bits_dtype(dtype).type(_EXPONENT[dtype])
    return not bool(np.any((block & exponent) == exponent))


def _blocks(t: StoredTensor) -> Iterable[Bits]:
    value = Read(t)
    height = max(1, _BLOCK_BYTES // max(1, value.row_bytes))
    ctx = PlainContext(height * value.row_bytes + value.scratch_bytes(height))
    for start in range(0, value.rows, height):
        rows = min(height, value.rows - start)
        with ctx.scratch(rows, value.columns, t.dtype) as block:
            value.fill(block, start, ctx)
            yield block
