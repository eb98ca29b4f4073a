"""Where a forward pass first leaves the golden one, and at which positions.

A point is bad where hidden states are further from the golden than a quarter of what the gate
allows the logits. A small defect may have begun before, unnoticed: it is the earliest point whose
error is ten times that of the one before, above rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamatools.golden.sketch import Floats
from llamatools.reference.observe import Point, Prompt
from llamatools.text import listing
from llamatools.verifying.compare import Compared
from llamatools.verifying.gates import Gate

_SHARE = 0.25
_JUMP = 10.0
_ROUNDING = 0.02
"""Of the tolerance: what is no jump from nothing."""
_BAD = 0.1
"""A position is bad where its error is this share of the largest."""
LARGE = 0.15
"""Error from which what is computed has little to do with what it should be."""


@dataclass(frozen=True)
class Positions:
    """Which positions are bad."""

    pattern: str
    """A key of PATTERNS."""
    text: str


PATTERNS = {
    "all": "every position",
    "not-first": "every position but the first",
    "grows": "every position but the first, the more the later",
    "far": "positions far from the first",
    "tokens": "some tokens, wherever they stand",
    "some": "some positions",
}


@dataclass(frozen=True)
class Place:
    """The first bad point."""

    kind: str
    """"embedding", "attention", "mlp", "norm", "head"; "logits" where nothing else is known."""
    layer: int | None
    after: str | None
    """The last point that was good."""
    error: float | None
    """rms(difference) / rms(golden) there; None where it is no number."""
    positions: Positions

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"layer {self.layer} {self.kind}"


def point_errors(compared: Compared) -> dict[Point, float]:
    """Point -> error over all positions; infinite where one is."""
    return {
        point: float(np.sqrt(np.square(np.concatenate(errors)).mean()))
        for point, errors in compared.hidden.items()
    }


def locate(compared: Compared, gate: Gate, std: float) -> Place:
    """The first bad point of a comparison that failed."""
    errors = point_errors(compared)
    if compared.broken is not None and compared.broken not in errors:
        return _place(compared, None, compared.broken.kind, compared.broken.layer, None, np.inf)
    tolerance = _SHARE * gate.rms
    points = list(errors)
    first = next((i for i, p in enumerate(points) if errors[p] > tolerance), None)
    if first is not None:
        i = _where_it_began([errors[p] for p in points], first, tolerance)
        after = str(points[i - 1]) if i else None
        found = np.concatenate(compared.hidden[points[i]])
        return _place(compared, found, points[i].kind, points[i].layer, after, errors[points[i]])
    rows = np.concatenate([np.sqrt(r.square) for r in compared.rows]) / std
    kind = "head" if points and points[-1].kind == "norm" else "logits"
    last = str(points[-1]) if points else None
    return _place(compared, rows, kind, None, last, float(np.sqrt(np.square(rows).mean())))


def _where_it_began(errors: Sequence[float], first: int, tolerance: float) -> int:
    """The earliest jump up to the first point that is bad, or that point."""
    before = 0.0
    for i in range(first):
        if errors[i] > _JUMP * max(before, _ROUNDING * tolerance):
            return i
        before = errors[i]
    return first


def _place(
    compared: Compared,
    rows: Floats | None,
    kind: str,
    layer: int | None,
    after: str | None,
    error: float,
) -> Place:
    if rows is None:
        positions = Positions("some", PATTERNS["some"])
    else:
        positions = describe(rows, compared.prompts, by_token=kind == "embedding")
    return Place(kind, layer, after, error if np.isfinite(error) else None, positions)


def describe(errors: Floats, prompts: Sequence[Prompt], *, by_token: bool = False) -> Positions:
    """Which positions are bad, from the error of each; `errors` runs through all prompts."""
    at = np.concatenate([np.array(p.positions) for p in prompts])
    tokens = np.concatenate([np.array(p.tokens) for p in prompts])
    bad = errors >= _BAD * errors.max()
    if bool(bad.all()):
        return Positions("all", PATTERNS["all"])
    if by_token and not set(tokens[bad].tolist()) & set(tokens[~bad].tolist()):
        found = sorted(set(tokens[bad].tolist()))
        return Positions("tokens", f"tokens {listing(found)}, wherever they stand")
    if _level(errors, at == 0) < 1e-2 * errors.max():
        return _of_distance(errors, at, bad)
    if bad.mean() > 0.5:
        return Positions("all", "every position" if bad.mean() > 0.9 else "most positions")
    return Positions("some", f"positions {listing(sorted(set(at[bad].tolist())))}")


def _of_distance(errors: Floats, at: NDArray[np.int64], bad: NDArray[np.bool_]) -> Positions:
    """Where position 0 is right, what is wrong has to do with positions: how does it grow?"""
    start, near = _level(errors, (at > 0) & (at < 4)), _level(errors, (at > 0) & (at < 32))
    later, far = _level(errors, (at >= 16) & (at < 64)), _level(errors, at >= 256)
    if near < 0.25 * far:
        return Positions("far", f"positions from {int(at[bad].min()):,} on, hardly those before")
    if start < 0.4 * later:
        return Positions("grows", PATTERNS["grows"])
    return Positions("not-first", PATTERNS["not-first"])


def _level(errors: Floats, which: NDArray[np.bool_]) -> float:
    """rms over some positions; 0 where there are none."""
    return float(np.sqrt(np.square(errors[which]).mean())) if which.any() else 0.0
