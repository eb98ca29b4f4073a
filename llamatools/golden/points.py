"""Names of the points of a forward pass, to and from files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from llamatools.reference.observe import Point

_NAME = re.compile(r"layer (0|[1-9]\d{0,5}) (attention|mlp)", re.ASCII)
_OUTER: dict[str, Point] = {"embedding": Point("embedding"), "norm": Point("norm")}


def parse_point(name: str) -> Point | None:
    """The point that str(Point) names; None where it names none."""
    if name in _OUTER:
        return _OUTER[name]
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Point("attention" if match[2] == "attention" else "mlp", int(match[1]))


def rank(point: Point) -> tuple[int, int, int]:
    """Orders points as the forward pass meets them."""
    if point.layer is None:
        return (0 if point.kind == "embedding" else 2), 0, 0
    return 1, point.layer, int(point.kind == "mlp")


def in_order(points: Iterable[Point]) -> bool:
    """Each point comes once, as the forward pass meets them."""
    ranks = [rank(p) for p in points]
    return all(a < b for a, b in pairwise(ranks))
