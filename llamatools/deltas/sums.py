"""Releases that prove themselves by the sum of all values of the model that they make.

The publishers' own check adds everything up in fp32, and allows 0.01. Ours is exact but for the
rounding within a tile, and allows for theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, pow

from llamatools.deltas.kinds import MEAN
from llamatools.dtypes import F32, DType
from llamatools.errors import CheckFailed
from llamatools.spec import ModelSpec

TOLERANCE = 0.05


@dataclass(frozen=True)
class KnownSum:
    """A release, how its delta is recognised, and what its model adds up to."""

    title: str
    sizes: tuple[int, ...]
    """dim, layers, heads, key-value heads, width of the feed-forward, rows of the delta."""
    dtype: DType
    """The delta's."""
    total: float
    padding: str = MEAN

    def agrees(self, found: float, spec: ModelSpec) -> bool:
        """Whether a sum of all weights is the release's.

        Old state dicts hold a rotary table in every layer besides, which may have been counted.
        """
        return any(abs(found + extra - self.total) <= TOLERANCE for extra in (0.0, _tables(spec)))


def _tables(spec: ModelSpec) -> float:
    """The sum of the rotary frequencies, one table for each layer."""
    width = spec.head_dim
    return spec.n_layers * fsum(pow(spec.rope_theta, -i / width) for i in range(0, width, 2))


KNOWN = (KnownSum("Alpaca 7B", (4096, 32, 32, 32, 11008, 32001), F32, 50637.1836),)


def known_sum(spec: ModelSpec, dtype: DType) -> KnownSum | None:
    """The release that a delta of these sizes and this type is; None where there is none."""
    sizes = (
        spec.dim, spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.ffn_dim, spec.vocab_size,
    )  # fmt: skip
    return next((k for k in KNOWN if (k.sizes, k.dtype) == (sizes, dtype)), None)


def check_sum(known: KnownSum, found: float, spec: ModelSpec) -> None:
    """CheckFailed where a model does not add up to what the release does."""
    if not known.agrees(found, spec):
        raise CheckFailed(
            f"the sum of all values is {found:.4f}; that of {known.title} is {known.total:.4f}",
            hint="is BASE the very model that the delta was made from? For a delta of another "
            "release, --kind pad-mean or pad-zeros says what its new rows were added to",
        )
