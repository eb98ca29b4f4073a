"""Tables and lines that keep figures whole on narrow terminals: columns go, digits do not."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_GAP = 2
"""Cells between two columns."""


@dataclass(frozen=True)
class Column:
    """A heading, and what is below it, with markup."""

    heading: str
    cells: Sequence[str]
    right: bool = True
    goes: int = 0
    """The column with the most goes first where there is no room for all; with 0, never."""

    @property
    def width(self) -> int:
        return max(cell_len(Text.from_markup(c).plain) for c in (self.heading, *self.cells))


def fitted(columns: Sequence[Column], width: int) -> Table:
    """As many of the columns as there is room for; what must stay is never cut, but juts out."""
    kept = list(columns)
    widths = {id(c): c.width for c in columns}
    while (needed := sum(widths[id(c)] + _GAP for c in kept) - _GAP) > width:
        first = max(kept, key=lambda c: c.goes)
        if not first.goes:
            break
        kept.remove(first)
    table = Table(box=None, pad_edge=False, header_style="dim", width=needed)
    for column in kept:
        table.add_column(
            column.heading, justify="right" if column.right else "left", no_wrap=True,
            min_width=widths[id(column)],
        )  # fmt: skip
    for row in zip(*(c.cells for c in kept), strict=True):
        table.add_row(*row)
    return table


NO_BREAK = "\xa0"
"""Stands for a blank where a line must not end."""

_NUMBER = re.compile(r"(?<=\d) (?=[KMGTP]i?B\b|kB\b|B\b|tokens?\b|parameters?\b)")


def unbroken(text: str, width: int, indent: int = 0) -> str:
    """`text` in lines of `width`, the first less `indent`; no line ends between number and unit."""
    glued = _NUMBER.sub(NO_BREAK, text)
    lines = textwrap.wrap(
        glued, max(width, 20), initial_indent=" " * indent, break_on_hyphens=False
    )
    return "\n".join(lines).removeprefix(" " * indent).replace(NO_BREAK, " ")
