"""The form every layout's table takes, and the few lines that interpret it.

A row says: this canonical tensor goes by this native name, its rows are ordered so, and
model-parallel files split it along this axis. Both directions are read from the same row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from llamatools.canonical import expand
from llamatools.spec import ModelSpec


class RowOrder(Enum):
    """How a tensor's rows are ordered natively, compared with the canonical order.

    Rotary position embedding turns pairs of rows within each head. Canonically (as in HF) row
    j of a head is paired with row j + D/2; PAIRS says that natively (as Meta's code has it) it
    stands beside row j + 1. The count of heads is the tensor's own: queries and keys differ.
    """

    SAME = "same"
    PAIRS_Q = "pairs(heads)"
    PAIRS_KV = "pairs(kv_heads)"

    def heads(self, spec: ModelSpec) -> int | None:
        """Number of heads whose rows are paired; None where the order is canonical."""
        return {
            RowOrder.SAME: None,
            RowOrder.PAIRS_Q: spec.n_heads,
            RowOrder.PAIRS_KV: spec.n_kv_heads,
        }[self]


SAME, PAIRS_Q, PAIRS_KV = RowOrder

Axis = Literal["copy", "rows", "columns", "kv"]
"""How model-parallel files share a tensor: each holds a copy, a run of rows, a run of columns,
or rows by key-value heads (which are repeated where there are more files than heads)."""


@dataclass(frozen=True)
class Row:
    canonical: str
    native: str
    order: RowOrder = SAME
    axis: Axis = "copy"


@dataclass(frozen=True)
class Layout:
    """A layout's name, its table, and the buffers its files may hold that are no weights."""

    name: str
    rows: tuple[Row, ...]
    buffers: tuple[str, ...] = ()

    def expand(self, n_layers: int) -> Iterator[tuple[str, str, Row]]:
        """(canonical name, native name, row) for every tensor the layout can hold."""
        for row in self.rows:
            names = expand(row.canonical, n_layers), expand(row.native, n_layers)
            for canonical, native in zip(*names, strict=True):
                yield canonical, native, row

    def buffer_names(self, n_layers: int) -> set[str]:
        return {name for template in self.buffers for name in expand(template, n_layers)}
