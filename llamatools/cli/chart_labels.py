"""Names of GPUs beside the lines of a chart, moved apart where lines are near."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from llamatools.memory.curve import Mark
from llamatools.memory.units import about_tokens, gib
from llamatools.text import safe

APART = 0.2
"""Inches between two labels, one below the other."""
BESIDE = 1.04
"""Where labels begin, in widths of the axes."""
SIZE = 9


def label(
    axes: Axes, marks: Sequence[Mark], top: float, inches: float, ink: str, stroke: str
) -> None:
    """Name each in order of its bytes; `top` bytes are `inches` above the axis of contexts.

    A stroke leads from the end of a line to its label. What is beyond the top has an arrow.
    """
    wanted = [min(m.usable / top, 1) * inches for m in marks]
    for m, y, place in zip(marks, spread(wanted, APART, inches), wanted, strict=True):
        above = " ↑" if m.usable > top else ""
        words = f"{safe(m.name, 24)} {gib(m.usable)}, {_longest(m)}{above}"
        axes.text(BESIDE, y / inches, words, transform=axes.transAxes, va="center_baseline",
                  fontsize=SIZE, color=ink)  # fmt: skip
        if not above:
            axes.plot([1.006, BESIDE - 0.006], [place / inches, y / inches], color=stroke,
                      linewidth=0.8, transform=axes.transAxes, clip_on=False)  # fmt: skip


def spread(wanted: Sequence[float], apart: float, most: float) -> list[float]:
    """Ascending places from 0 to `most`, at least `apart` and else as near as can be to `wanted`.

    There must be room for all of them.
    """
    groups: list[tuple[float, int]] = []  # (middle, members)
    for place in wanted:
        groups.append((place, 1))
        while True:
            middle, n = groups[-1]
            half = apart * (n - 1) / 2
            groups[-1] = (min(max(middle, half), most - half), n)
            if len(groups) < 2:
                break
            (low, k), (high, n) = groups[-2:]
            if high - low >= apart * (n + k) / 2:
                break
            groups[-2:] = [((low * k + high * n) / (n + k), n + k)]
    return [middle + apart * (i - (n - 1) / 2) for middle, n in groups for i in range(n)]


def _longest(m: Mark) -> str:
    return f"to ~{about_tokens(m.longest)}" if m.longest else "too small"
