"""Matrices of the base that an adapter carries along, as PEFT saves them beside factors.

A copy of what the base has changes nothing. Taken for a replacement it would undo what an adapter
before it did to the same matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llamatools.adapters.part import Adapter, Part
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Expr
from llamatools.expr.numbers import read_numbers
from llamatools.merging.fit import Names

_BLOCK = 1 << 20
"""Elements compared at once."""


def without_copies(adapter: Adapter, names: Names, base: Mapping[str, Expr]) -> Adapter:
    """The adapter without the weights that it only carries along, and that are the base's own."""
    return replace(adapter, parts={m: _changed(p, names, base) for m, p in adapter.parts.items()})


def _changed(part: Part, names: Names, base: Mapping[str, Expr]) -> Part:
    own = base.get(names.of(part.module, "weight") or "")
    if part.weight is None or part.trained or own is None or not _same(part.weight, own):
        return part
    return replace(part, weight=None)


def _same(a: Expr, b: Expr) -> bool:
    """Whether two tensors hold the same numbers, whatever their types."""
    if a.shape != b.shape:
        return False
    granule = np.lcm(a.granule, b.granule)
    height = max(1, _BLOCK // max(1, a.columns) // granule) * int(granule)
    ctx = PlainContext(
        2 * height * max(a.row_bytes, b.row_bytes)
        + max(a.scratch_bytes(height), b.scratch_bytes(height))
    )
    wide = np.dtype(np.float32)
    for start in range(0, a.rows, height):
        stop = min(start + height, a.rows)
        x, y = (read_numbers(t, start, stop, ctx, wide) for t in (a, b))
        if not np.array_equal(x, y):
            return False
    return True
