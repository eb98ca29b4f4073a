"""From rows of logits to what a golden file keeps of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamatools.golden.model import TOP_K, Digest
from llamatools.golden.sketch import Floats, sketch


def lse(x: Floats) -> Floats:
    """(rows, n) -> (rows,): log of the sum of exp."""
    top = x.max(axis=1)
    out: Floats = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    return out


def digest(x: Floats) -> Digest:
    """(rows, vocabulary) logits, all finite."""
    ids = top_ids(x, TOP_K)
    return Digest(
        top_ids=ids,
        top_values=np.take_along_axis(x, ids, 1),
        lse=lse(x),
        mean=x.mean(axis=1),
        square=np.square(x).mean(axis=1),
        sketch=sketch(x),
    )


def top_ids(x: Floats, k: int) -> NDArray[np.int64]:
    """(rows, n) -> (rows, min(k, n)): where the largest are, the largest first, ties by id."""
    n = x.shape[1]
    some = (
        np.argpartition(x, n - k, axis=1)[:, n - k :]
        if k < n
        else np.tile(np.arange(n), (len(x), 1))
    )
    some = np.sort(some, axis=1)
    order = np.argsort(-np.take_along_axis(x, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1).astype(np.int64)


def target_logprobs(x: Floats, sums: Floats, following: Sequence[int]) -> Floats:
    """Log-probabilities of the tokens that follow the first len(following) rows of x."""
    m = len(following)
    out: Floats = x[np.arange(m), np.asarray(following, np.int64)] - sums[:m]
    return out


def stack(parts: Sequence[Digest]) -> Digest:
    """One digest of rows that were digested in parts."""
    names = ("top_ids", "top_values", "lse", "mean", "square", "sketch")
    return Digest(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def take(d: Digest, start: int, stop: int) -> Digest:
    """The digest of some of the rows."""
    names = ("top_ids", "top_values", "lse", "mean", "square", "sketch")
    return Digest(**{n: getattr(d, n)[start:stop] for n in names})
