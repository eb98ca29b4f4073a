"""A small plot for terminals: what a GPU needs against context, and where GPUs end.

The axis begins where the weights end, of which one row is left: they would fill the plot, and the
cache is what context changes. Every kind of cell has a character of its own, so that nothing is
lost without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from llamatools.memory.curve import Point
from llamatools.memory.units import about_tokens, gib

HEIGHT = 10
"""Rows above the weights."""
_LABEL = 9
_NEAR = 1.6
"""Lines that would make the plot so many times higher are left out, and named below it."""


@dataclass(frozen=True)
class Glyphs:
    weights: str
    rest: str
    kv: str
    """Cells filled to one part, two parts, ... and whole."""
    line: str
    axis: str
    corner: str


UNICODE = Glyphs("░", "▒", "▁▂▃▄▅▆▇█", "╌", "│", "└")
ASCII = Glyphs(".", ":", "#", "-", "|", "+")

WEIGHTS_STYLE, REST_STYLE, KV_STYLE = "blue", "magenta", "cyan"


@dataclass(frozen=True)
class Line:
    """A GPU's usable memory in bytes, under its name."""

    name: str
    at: int
    style: str


@dataclass(frozen=True)
class _Band:
    """One row's bytes."""

    low: int
    high: int

    def holds(self, n: int) -> bool:
        return self.low < n <= self.high


def plot(
    need: Callable[[int], Point],
    longest: int,
    lines: Sequence[Line],
    width: int,
    glyphs: Glyphs = UNICODE,
) -> list[Text]:
    """Rows of at most `width` cells: the plot, its axes, and which lines are not in it."""
    names = max((len(line.name) + 3 for line in lines), default=0)
    columns = max(16, width - _LABEL - 2 - (names + 1 if names else 0))
    points = [need(max(1, longest * (i + 1) // columns)) for i in range(columns)]
    base = min(p.weights for p in points)
    highest = max(p.total for p in points)
    ceiling = base + (highest - base) * _NEAR
    shown = [line for line in lines if base < line.at <= ceiling]
    top = max([highest, *(line.at for line in shown)])
    edges = [base + (top - base) * i // HEIGHT for i in range(HEIGHT + 1)]
    bands = [_Band(low, high) for low, high in pairwise(edges)]
    rows = [
        _row(points, shown, band, glyphs, labelled=i % 3 == 0, width=width)
        for i, band in reversed(list(enumerate(bands)))
    ]
    rows.append(_weights_row(base, columns, glyphs))
    rows.append(_ticks(longest, columns, glyphs))
    for word, left_out in (
        ("above", [line for line in lines if line.at > ceiling]),
        ("below", [line for line in lines if line.at <= base]),
    ):
        if left_out:
            rows.append(_named(word, left_out, width))
    rows.append(_legend(glyphs, bool(shown)))
    return rows


def _row(
    points: Sequence[Point],
    lines: Sequence[Line],
    band: _Band,
    glyphs: Glyphs,
    *,
    labelled: bool,
    width: int,
) -> Text:
    here = [line for line in lines if band.holds(line.at)]
    row = Text(f"{gib(band.high) if labelled else '':>{_LABEL}}{glyphs.axis}", no_wrap=True)
    for p in points:
        row.append(*_cell(p, band, here, glyphs))
    if here:
        row.append(f" {here[0].name}", here[0].style)
        more = f" +{len(here) - 1}" if len(here) > 1 else ""
        row.append(more if row.cell_len + len(more) <= width else "")
    return row


def _cell(p: Point, band: _Band, here: Sequence[Line], glyphs: Glyphs) -> tuple[str, str]:
    """(character, style) by how far the band is filled, and with what."""
    upto = p.weights + p.rest
    if (band.low + band.high) // 2 < upto:
        return glyphs.rest, REST_STYLE
    steps = len(glyphs.kv)
    filled = (p.total - band.low) * steps // max(1, band.high - band.low)
    if filled > 0:
        style = REST_STYLE if upto - band.low > p.kv else KV_STYLE
        return glyphs.kv[min(filled, steps) - 1], style
    return (glyphs.line, here[0].style) if here else (" ", "")


def _weights_row(base: int, columns: int, glyphs: Glyphs) -> Text:
    row = Text(f"{gib(base):>{_LABEL}}{glyphs.axis}", no_wrap=True)
    row.append(glyphs.weights * columns, WEIGHTS_STYLE)
    return row


def _ticks(longest: int, columns: int, glyphs: Glyphs) -> Text:
    """The axis of contexts: nothing, half of it, all of it."""
    cells = [" "] * columns
    for at, n in ((0, 0), (columns // 2, longest // 2), (columns, longest)):
        label = about_tokens(n)
        start = min(max(0, at - len(label) // 2), columns - len(label))
        cells[start : start + len(label)] = label
    return Text(f"{'context':>{_LABEL}}{glyphs.corner}{''.join(cells)}")


def _named(word: str, lines: Sequence[Line], width: int) -> Text:
    """As many of the names as there is room for."""
    words = [f"{line.name} {gib(line.at)}" for line in lines]
    for n in range(len(words), 0, -1):
        rest = f" and {len(words) - n} more" if n < len(words) else ""
        text = f"{word:>{_LABEL}} {', '.join(words[:n])}{rest}"
        if len(text) <= width:
            break
    return Text(text, style="dim")


def _legend(glyphs: Glyphs, has_lines: bool) -> Text:
    out = Text(" " * (_LABEL + 1))
    parts = ((glyphs.weights, WEIGHTS_STYLE, "weights"), (glyphs.rest, REST_STYLE, "the rest (~)"),
             (glyphs.kv[-1], KV_STYLE, "KV cache"))  # fmt: skip
    for glyph, style, what in parts:
        out.append(glyph * 2, style)
        out.append(f" {what}   ")
    if has_lines:
        out.append(f"{glyphs.line * 2} usable")
    out.rstrip()
    return out
