"""A small plot for terminals: what a GPU needs against context, and where GPUs end.

Every kind of cell has a character of its own, so that nothing is lost without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from llamatools.memory.units import about_tokens, gib

HEIGHT = 10
_LABEL = 9
_NEAR = 1.6
"""Lines so many times above the highest need are left out, and named below the plot."""


@dataclass(frozen=True)
class Glyphs:
    weights: str
    kv: str
    rest: str
    line: str
    axis: str
    corner: str


UNICODE = Glyphs("░", "█", "▒", "╌", "│", "└")
ASCII = Glyphs(".", "#", ":", "-", "|", "+")

WEIGHTS_STYLE, KV_STYLE, REST_STYLE = "blue", "cyan", "magenta"


@dataclass(frozen=True)
class Line:
    """A GPU's usable memory in bytes, under its name."""

    name: str
    at: int
    style: str


@dataclass(frozen=True)
class Point:
    """Bytes at one context."""

    weights: int
    kv: int
    rest: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.rest


def plot(
    need: Callable[[int], Point],
    longest: int,
    lines: Sequence[Line],
    width: int,
    glyphs: Glyphs = UNICODE,
) -> list[Text]:
    """Rows of at most `width` cells: the plot, its axes, and what lies above it."""
    names = max((len(line.name) + 3 for line in lines), default=0)
    columns = max(16, width - _LABEL - 2 - (names + 1 if names else 0))
    points = [need(max(1, longest * (i + 1) // columns)) for i in range(columns)]
    highest = max(p.total for p in points)
    shown = [line for line in lines if line.at <= highest * _NEAR]
    top = max([highest, *(line.at for line in shown)]) or 1
    rows = [
        _row(points, shown, top, r, glyphs, labelled=(HEIGHT - 1 - r) % 3 == 0, width=width)
        for r in range(HEIGHT)
    ]
    rows.append(_ticks(longest, columns, glyphs))
    above = [line for line in lines if line not in shown]
    if above:
        rows.append(_above(above, width))
    rows.append(_legend(glyphs, bool(shown)))
    return rows


def _row(
    points: Sequence[Point],
    lines: Sequence[Line],
    top: int,
    r: int,
    glyphs: Glyphs,
    *,
    labelled: bool,
    width: int,
) -> Text:
    """Row `r` from above: cells by what is found at half their height."""
    high, low = top * (HEIGHT - r) // HEIGHT, top * (HEIGHT - r - 1) // HEIGHT
    middle = (high + low) // 2
    here = [line for line in lines if low < line.at <= high]
    row = Text(f"{gib(high) if labelled else '':>{_LABEL}}{glyphs.axis}", no_wrap=True)
    for p in points:
        if middle < p.weights:
            row.append(glyphs.weights, WEIGHTS_STYLE)
        elif middle < p.weights + p.kv:
            row.append(glyphs.kv, KV_STYLE)
        elif middle < p.total:
            row.append(glyphs.rest, REST_STYLE)
        else:
            row.append(glyphs.line if here else " ", here[0].style if here else "")
    if here:
        row.append(f" {here[0].name}", here[0].style)
        more = f" +{len(here) - 1}" if len(here) > 1 else ""
        row.append(more if row.cell_len + len(more) <= width else "")
    return row


def _ticks(longest: int, columns: int, glyphs: Glyphs) -> Text:
    """The axis of contexts: nothing, half of it, all of it."""
    cells = [" "] * columns
    for at, n in ((0, 0), (columns // 2, longest // 2), (columns, longest)):
        label = about_tokens(n)
        start = min(max(0, at - len(label) // 2), columns - len(label))
        cells[start : start + len(label)] = label
    return Text(f"{'context':>{_LABEL}}{glyphs.corner}{''.join(cells)}")


def _above(lines: Sequence[Line], width: int) -> Text:
    """As many of the names as there is room for."""
    words = [f"{line.name} {gib(line.at)}" for line in lines]
    for n in range(len(words), 0, -1):
        rest = f" and {len(words) - n} more" if n < len(words) else ""
        text = f"{'above':>{_LABEL}} {', '.join(words[:n])}{rest}"
        if len(text) <= width:
            break
    return Text(text, style="dim")


def _legend(glyphs: Glyphs, has_lines: bool) -> Text:
    out = Text(" " * (_LABEL + 1))
    parts = ((glyphs.weights, WEIGHTS_STYLE, "weights"), (glyphs.kv, KV_STYLE, "KV cache"),
             (glyphs.rest, REST_STYLE, "the rest (estimated)"))  # fmt: skip
    for glyph, style, what in parts:
        out.append(glyph * 2, style)
        out.append(f" {what}   ")
    if has_lines:
        out.append(f"{glyphs.line * 2} usable")
    out.rstrip()
    return out
