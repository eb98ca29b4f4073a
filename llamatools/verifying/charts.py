"""Charts as inline SVG: errors on a logarithmic scale, by point and by position.

Each is drawn twice, for wide and for narrow screens, so that text keeps its size; style sheets show
one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTHS = {"wide": 880, "narrow": 340}
_HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 40
_LABEL = 48
"""Pixels that 'N att' and 'N mlp' need side by side."""
_ROOM = 8
"""Pixels between dots that are drawn on a line."""
_LEAST = 1e-9
"""Drawn for 0, which has no logarithm."""


@dataclass(frozen=True)
class Dot:
    """A number that is drawn; None is drawn at the top, as no number."""

    label: str
    value: float | None


@dataclass(frozen=True)
class Line:
    """A limit."""

    label: str
    value: float


class _Scale:
    """Values to pixels, in decades."""

    def __init__(self, values: Sequence[float]) -> None:
        logs = [log10(max(v, _LEAST)) for v in values] or [-6.0]
        self.low = floor(min(logs))
        self.high = max(self.low + 2, floor(max(logs)) + 1)

    def y(self, value: float | None) -> float:
        part = 1.0 if value is None else self._part(value)
        return _TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM)

    def _part(self, value: float) -> float:
        return (log10(max(value, _LEAST)) - self.low) / (self.high - self.low)

    def ticks(self) -> list[int]:
        step = max(1, (self.high - self.low + 5) // 6)
        return list(range(self.low, self.high + 1, step))


def both(draw: Callable[[int], str]) -> str:
    """A chart at both widths."""
    return "".join(f'<div class="{name}">{draw(width)}</div>' for name, width in WIDTHS.items())


def by_point(
    title: str, dots: Sequence[Dot], largest: Sequence[Dot], limit: Line, bad: int | None
) -> str:
    """A line through the points of the forward pass; `bad` is the first that is."""
    values = [d.value for d in (*dots, *largest) if d.value is not None]
    scale = _Scale([*values, limit.value])

    def draw(width: int) -> str:
        step = (width - _LEFT - _RIGHT) / max(1, len(dots))
        xs = [_LEFT + (i + 0.5) * step for i in range(len(dots))]
        parts = [*_grid(scale, width), *_limit(scale, width, limit)]
        for name, series in (("faint", largest), ("series", dots)):
            path = " ".join(
                f"{x:.1f},{scale.y(d.value):.1f}" for x, d in zip(xs, series, strict=True)
            )
            parts.append(f'<polyline class="{name}" points="{path}"/>')
        for i, (x, dot) in enumerate(zip(xs, dots, strict=True)):
            if step >= _ROOM or i == bad or dot.value is None:
                parts.append(_mark(x, scale, dot, bad=i == bad))
        names = [_short(d.label, dense=step < _LABEL and i != bad) for i, d in enumerate(dots)]
        parts += _labels(xs, names, bad)
        return _svg(title, width, parts)

    return both(draw)


def by_position(title: str, prompts: Sequence[Sequence[Dot]], limit: Line) -> str:
    """A band for every prompt, numbered from 1; a dot for every position."""
    scale = _Scale([*(d.value for p in prompts for d in p if d.value is not None), limit.value])

    def draw(width: int) -> str:
        band = (width - _LEFT - _RIGHT) / max(1, len(prompts))
        parts = [*_grid(scale, width), *_limit(scale, width, limit)]
        for i, dots in enumerate(prompts):
            left = _LEFT + i * band
            if i:
                parts.append(f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" '
                             f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')  # fmt: skip
            for k, dot in enumerate(dots):
                x = left + band * (k + 0.5) / len(dots)
                parts.append(_mark(x, scale, dot, small=True))
        xs = [_LEFT + (i + 0.5) * band for i in range(len(prompts))]
        parts += _labels(xs, [str(i + 1) for i in range(len(prompts))], None)
        return _svg(title, width, parts)

    return both(draw)


def _grid(scale: _Scale, width: int) -> list[str]:
    out = []
    for tick in scale.ticks():
        y = scale.y(10.0**tick)
        out.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        out.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                   f'10<tspan dy="-5" class="power">{_minus(tick)}</tspan></text>')  # fmt: skip
    return out


def _minus(n: int) -> str:
    return f"−{-n}" if n < 0 else str(n)


def _limit(scale: _Scale, width: int, limit: Line) -> list[str]:
    y = scale.y(limit.value)
    return [
        f'<line class="limit" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="limit" x="{width - _RIGHT}" y="{y - 5:.1f}" text-anchor="end">'
        f"{escape(limit.label)} {limit.value:g}</text>",
    ]


def _mark(x: float, scale: _Scale, dot: Dot, *, bad: bool = False, small: bool = False) -> str:
    shown = "no number" if dot.value is None else f"{dot.value:.3g}"
    kind = "bad" if bad or dot.value is None else "dot"
    radius = 5 if bad else 2 if small else 3
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{scale.y(dot.value):.1f}" r="{radius}">'
        f"<title>{escape(dot.label)}: {shown}</title></circle>"
    )


def _labels(xs: Sequence[float], labels: Sequence[str], bad: int | None) -> list[str]:
    """As many as there is room for; always that of the first bad point."""
    out: list[str] = []
    end = 0.0
    reach = [7 * len(label) / 2 + 5 for label in labels]  # half of what a label takes, in pixels
    for i, (x, label) in enumerate(zip(xs, labels, strict=True)):
        near = bad is not None and i != bad and abs(xs[bad] - x) < reach[i] + reach[bad]
        if not label or near or (x - reach[i] < end and i != bad):
            continue
        end = x + reach[i]
        style = "axis strong" if i == bad else "axis"
        out.append(
            f'<text class="{style}" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
    return out


def _short(point: str, *, dense: bool) -> str:
    """'layer 3 attention' -> '3 att'; where points are dense, layers alone: '3'."""
    words = point.split()
    if len(words) == 3:
        if dense:
            return words[1] if words[2] == "attention" else ""
        return f"{words[1]} {words[2][:3]}"
    return {"embedding": "emb"}.get(point, point)


def _svg(title: str, width: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
