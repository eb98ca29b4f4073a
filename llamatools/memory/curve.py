"""What a GPU needs against context, as points: from short contexts to where the asked GPUs end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamatools.memory.report import Answer

_SHORT = 2048
_FURTHER = 8
"""A GPU's longest context is within the curve up to so many times the longest one asked for."""
_STEPS = 240


@dataclass(frozen=True)
class Point:
    """Bytes of one GPU at one context."""

    context: int
    weights: int
    rest: int
    kv: int

    @property
    def total(self) -> int:
        return self.weights + self.rest + self.kv


@dataclass(frozen=True)
class Mark:
    """One GPU: the bytes it offers, and the longest context they hold (0: not even one token)."""

    name: str
    usable: int
    longest: int


@dataclass(frozen=True)
class Curve:
    """Points in order of their contexts, at least two; GPUs in order of their bytes."""

    points: tuple[Point, ...]
    marks: tuple[Mark, ...]

    @property
    def first(self) -> int:
        return self.points[0].context

    @property
    def last(self) -> int:
        return self.points[-1].context


def curve(answer: Answer) -> Curve:
    """The answer's memory of the fullest GPU, and the GPUs it was asked about."""
    report: dict[str, Any] = answer.report
    asked = [row["context"] for row in report["contexts"]]
    gpus = (
        Mark(g["key"], g["usable"]["value"], g["largest_context"]["value"]) for g in report["gpus"]
    )
    marks = tuple(sorted(gpus, key=lambda m: m.usable))
    ends = [m.longest for m in marks if 0 < m.longest <= _FURTHER * asked[-1]]
    last = max(2, asked[-1], *ends)
    first = min(_SHORT, asked[0], last // 2, *ends)
    contexts = _contexts(first, last, answer.deployment.engine.block)
    return Curve(tuple(point(answer, n) for n in contexts), marks)


def point(answer: Answer, context: int) -> Point:
    """The fullest GPU at one context, with as many sequences as the answer has."""
    report: dict[str, Any] = answer.report
    n = answer.deployment.need(context, report["contexts"][0]["batch"])
    return Point(context, n.weights, n.extra.total, n.kv)


def _contexts(first: int, last: int, block: int) -> list[int]:
    """Even steps of a logarithmic axis, at ends of blocks, where the cache is full."""
    ratio = last / first
    steps = (round(first * ratio ** (i / _STEPS)) for i in range(_STEPS + 1))
    ends = {-(-n // block) * block for n in steps}
    return sorted({n for n in ends if first < n < last} | {first, last})
