"""All rows of a comparison as a few numbers: what gates hold, and what is shown beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from llamatools.verifying.rows import Rows, join


@dataclass(frozen=True)
class Totals:
    """Over some positions. None where NaN or infinity leaves no number."""

    positions: int
    finite: bool
    rms: float | None
    """rms(difference) / std(golden logits)"""
    mean_kl: float | None
    p95_kl: float | None
    max_kl: float | None
    top1: float
    """Share of positions whose likeliest id is the golden's."""
    cosine: float | None
    outside: float
    """Mean golden mass outside the top k: where it is not 0, KL is an estimate."""


def spread(rows: Sequence[Rows]) -> float:
    """std of the golden logits, over all of them; 1 where they are all the same."""
    r = join(list(rows))
    variance = float(r.golden_square.mean() - r.golden_mean.mean() ** 2)
    return sqrt(variance) if variance > 0 else 1.0


def total(rows: Sequence[Rows], std: float) -> Totals:
    """`std`: what differences are measured by."""
    r = join(list(rows))
    difference = float(r.square.mean())
    scale = sqrt(float(r.golden_square.mean()) * float(r.found_square.mean()))
    dot = (float(r.golden_square.mean()) + float(r.found_square.mean()) - difference) / 2
    return Totals(
        positions=len(r.kl),
        finite=bool(r.finite.all()),
        rms=_number(sqrt(difference) / std),
        mean_kl=_number(float(r.kl.mean())),
        p95_kl=_number(float(np.quantile(r.kl, 0.95, method="inverted_cdf"))),
        max_kl=_number(float(r.kl.max())),
        top1=float(r.top1.mean()),
        cosine=_number(min(1.0, max(-1.0, dot / scale))) if scale > 0 and isfinite(dot) else None,
        outside=float(r.outside.mean()),
    )


def _number(x: float) -> float | None:
    return x if isfinite(x) else None
