"""What two models differ in by their digests, and how much of that no prompt can show.

A row of the embedding goes into logits where its token is in a prompt, and nowhere else; a tied
one is the head's as well, so that logits show all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm

import numpy as np
from numpy.typing import NDArray

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.fingerprints import Fingerprint, differences
from llamatools.reference.observe import Prompt
from llamatools.reference.reading import Reader
from llamatools.reference.units import Piece, Unit
from llamatools.text import count, listing

_BLOCK = 16 << 20
"""Bytes of the embedding that are held at a time, of either model."""


def differing(left: Fingerprint, right: Fingerprint) -> tuple[str, ...]:
    """Canonical names of tensors that differ; of a head that one model merely stores, its name."""
    names = tuple(d.name for d in differences(left, right))
    return names or ((HEAD,) if left.digest != right.digest else ())


def told(names: tuple[str, ...]) -> str:
    return f"{count(len(names), 'tensor')} of other digests than the other's: {listing(names)}"


def unseen_rows(checkpoint: Checkpoint, prompts: Iterable[Prompt]) -> NDArray[np.bool_] | None:
    """(V,) rows of the embedding that no prompt uses; None where logits show all."""
    if checkpoint.spec.tied:
        return None
    out = np.ones(checkpoint.spec.vocab_size, np.bool_)
    for p in prompts:
        out[list(p.tokens)] = False
    return out if out.any() else None


def used(unseen: NDArray[np.bool_] | None) -> list[str]:
    """That prompts use but some of the rows."""
    if unseen is None:
        return []
    some = len(unseen) - int(unseen.sum())
    return [
        f"the prompts use {some:,} of {len(unseen):,} rows of the embedding; "
        "logits do not show the others"
    ]


def unseen_differences(
    left: Checkpoint, right: Checkpoint, names: tuple[str, ...], unseen: NDArray[np.bool_] | None
) -> list[str]:
    """How many rows of the embedding differ without any prompt's seeing it."""
    if unseen is None or EMBEDDING not in names:
        return []
    rows = _differing_rows(left, right)
    if rows is None:
        return []
    found, hidden = int(rows.sum()), int((rows & unseen).sum())
    if not hidden:
        return []
    which = "no prompt uses them" if hidden == found else f"no prompt uses {hidden:,} of them"
    return [f"{EMBEDDING} differs in {count(found, 'row')}; {which}: logits do not show that"]


def _differing_rows(left: Checkpoint, right: Checkpoint) -> NDArray[np.bool_] | None:
    """(V,) by their bits, a block of rows at a time; None where types or shapes differ."""
    values = [c.values[EMBEDDING] for c in (left, right)]
    if values[0].shape != values[1].shape or values[0].dtype != values[1].dtype:
        return None
    n, width = values[0].rows, values[0].row_bytes
    granule = lcm(*(v.granule for v in values))
    step = max(1, _BLOCK // max(1, width) // granule) * granule
    out = np.zeros(n, np.bool_)
    with Reader(left) as a, Reader(right) as b:
        for start in range(0, n, step):
            stop = min(start + step, n)
            blocks = []
            for reader, value in zip((a, b), values, strict=True):
                memory = np.empty((stop - start) * width, np.uint8)
                reader.fill(Unit(EMBEDDING, (Piece(EMBEDDING, value, start, stop),)), memory)
                blocks.append(memory.reshape(stop - start, width))
            out[start:stop] = (blocks[0] != blocks[1]).any(axis=1)
    return out
