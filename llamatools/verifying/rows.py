"""How far rows of logits are from a golden file's, row by row, in float64.

Where the file has a row in full, everything is computed from it. Where it has the top k, their
log-sum-exp and a sketch:

    rms    from the sketches, without bias (golden/sketch.py)
    KL     sum over the top k of p·(log p - log q), all other ids taken as one outcome; this is at
           most the true KL (log-sum inequality). For what differs among those others, to second
           order, their mass times half the variance of the difference is added.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from llamatools.golden.digests import lse
from llamatools.golden.model import Digest
from llamatools.golden.sketch import Floats, mean_square, sketch, sketch_of_ones

_NO_MASS = 1e-12
"""Of the ids outside the top k: what rounding leaves of none."""


@dataclass(frozen=True)
class Rows:
    """One number for each row."""

    kl: Floats
    """KL(golden || found), in nats"""
    square: Floats
    """mean square of the difference"""
    outside: Floats
    """golden mass outside the top k, for which KL is an estimate; 0 where rows were in full"""
    top1: NDArray[np.bool_]
    """the golden's likeliest id is likeliest"""
    golden_mean: Floats
    golden_square: Floats
    found_square: Floats
    finite: NDArray[np.bool_]
    """no NaN, no infinity; where there is one, kl and square are infinite"""


def join(parts: list[Rows]) -> Rows:
    return Rows(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Rows)}
    )


def against_full(x: Floats, golden: Floats) -> Rows:
    """(m, V) against (m, V)."""
    x, finite = _finite(x)
    p = golden - lse(golden)[:, None]
    q = x - lse(x)[:, None]
    kl = np.maximum(0.0, (np.exp(p) * (p - q)).sum(axis=1))
    square = np.square(x - golden).mean(axis=1)
    best = golden.argmax(axis=1)
    return Rows(
        kl=np.where(finite, kl, np.inf),
        square=np.where(finite, square, np.inf),
        outside=np.zeros(len(x)),
        top1=finite & (x[np.arange(len(x)), best] >= x.max(axis=1)),
        golden_mean=golden.mean(axis=1),
        golden_square=np.square(golden).mean(axis=1),
        found_square=np.square(x).mean(axis=1),
        finite=finite,
    )


def against_digest(x: Floats, golden: Digest) -> Rows:
    """(m, V) against what is kept of m rows."""
    x, finite = _finite(x)
    sums = lse(x)
    found = np.take_along_axis(x, golden.top_ids, 1)  # (m, k)
    p = golden.top_values - golden.lse[:, None]
    q = found - sums[:, None]
    outside = np.maximum(0.0, 1.0 - np.exp(p).sum(axis=1))
    outside[outside < _NO_MASS] = 0.0
    left = np.maximum(_NO_MASS, 1.0 - np.exp(q).sum(axis=1))
    others = np.where(
        outside > 0, outside * np.log(np.where(outside > 0, outside, 1.0) / left), 0.0
    )
    n = x.shape[1]
    shift = x.mean(axis=1) - golden.mean  # known exactly, so only the rest is estimated
    rest = sketch(x) - golden.sketch - shift[:, None] * sketch_of_ones(n)
    spread = mean_square(rest, n)
    square = spread + np.square(shift)
    kl = np.maximum(0.0, (np.exp(p) * (p - q)).sum(axis=1) + others) + 0.5 * outside * spread
    # Sketches in a file are rounded; that of the very same logits differs by that.
    same = (found == golden.top_values).all(axis=1) & (sums == golden.lse)
    kl, square = np.where(same, 0.0, kl), np.where(same, 0.0, square)
    return Rows(
        kl=np.where(finite, kl, np.inf),
        square=np.where(finite, square, np.inf),
        outside=outside,
        top1=finite & (found[:, 0] >= x.max(axis=1)),
        golden_mean=golden.mean,
        golden_square=golden.square,
        found_square=np.square(x).mean(axis=1),
        finite=finite,
    )


def _finite(x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Rows with NaN or infinity as zeros, and which rows have none."""
    finite = finite_rows(x)
    return (x if finite.all() else np.where(finite[:, None], x, 0.0)), finite


def finite_rows(x: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(x).all(axis=1), np.bool_)
