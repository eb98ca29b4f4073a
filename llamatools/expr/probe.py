"""Looks at a little tensor data where headers alone cannot tell: are two tensors the same?"""

from __future__ import annotations

import numpy as np
from zlib_ng.zlib_ng import crc32, crc32_combine

from llamatools.containers.base import StoredTensor
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr

_BLOCK_BYTES = 2 << 20
_SAMPLES = 3


def alike(a: Expr, b: Expr) -> bool:
    """Whether a few blocks, spread over two tensors, are equal and say something.

    Blocks of one repeated value (a file of zeros) are no evidence and count as unequal.
    """
    if not _comparable(a, b):
        return False
    height = max(1, (1 << 16) // max(1, a.row_bytes))
    starts = {max(0, (a.rows - height) * i // (_SAMPLES - 1)) for i in range(_SAMPLES)}
    return _blocks_equal(a, b, sorted(starts), height, varied=True)


def equal(a: Expr, b: Expr) -> bool:
    """Whether two tensors are equal bit for bit, read in blocks until they differ."""
    if not _comparable(a, b):
        return False
    height = max(1, _BLOCK_BYTES // max(1, a.row_bytes))
    return _blocks_equal(a, b, list(range(0, a.rows, height)), height, varied=False)


def _comparable(a: Expr, b: Expr) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _blocks_equal(a: Expr, b: Expr, starts: list[int], height: int, *, varied: bool) -> bool:
    ctx = PlainContext(
        2 * height * a.row_bytes + max(a.scratch_bytes(height), b.scratch_bytes(height))
    )
    some_variety = not varied
    for start in starts:
        rows = min(height, a.rows - start)
        with (
            ctx.scratch(rows, a.columns, a.dtype) as left,
            ctx.scratch(rows, a.columns, a.dtype) as right,
        ):
            a.fill(left, start, ctx)
            b.fill(right, start, ctx)
            if not np.array_equal(left, right):
                return False
            some_variety = some_variety or bool((left != left.flat[0]).any())
    return some_variety


def checksums_agree(a: Expr, b: Expr) -> bool | None:
    """What headers alone say of two tensors being equal; None where they do not tell.

    Equal are the same bytes of one file, and records of equal size and CRC.
    """
    if not _comparable(a, b):
        return False
    answers = {_same_record(x, y) for x, y in zip(a.reads(), b.reads(), strict=False)}
    return False if False in answers else None if None in answers else True


def _same_record(x: StoredTensor, y: StoredTensor) -> bool | None:
    if x.file is y.file and x.offset == y.offset:
        return (x.dtype, x.shape, x.strides) == (y.dtype, y.shape, y.strides)
    if x.record is None or y.record is None or not (x.contiguous and y.contiguous):
        return None
    # Nothing is learnt from a CRC that was left out, or from two tensors full of zeros.
    silent = (None, 0, crc_of_zeros(x.nbytes))
    if {x.nbytes, y.nbytes} != {x.record.size, y.record.size} or x.record.crc in silent:
        return None
    return x.record.crc == y.record.crc


def crc_of_zeros(size: int) -> int:
    """The CRC-32 of so many zero bytes, by doubling."""
    crc, power, length = 0, crc32(b"\0"), 1
    while size:
        if size & 1:
            crc = crc32_combine(crc, power, length)
        power, length, size = crc32_combine(power, power, length), length * 2, size >> 1
    return crc
