"""A head that is the embedding, and adapters that change one of the two.

Training on a tied model changes what the adapter wraps: with LoRA on the embedding, the head is
still the base's. So the two part, unless the adapter says that it kept them together.
"""

from __future__ import annotations

from dataclasses import replace

from llamatools.adapters.part import Adapter, Part
from llamatools.canonical import EMBEDDING, HEAD
from llamatools.expr.probe import equal
from llamatools.merging.fit import Names

EMBEDDING_MODULE, HEAD_MODULE = "model.embed_tokens", "lm_head"


def find(adapter: Adapter, names: Names, target: str) -> Part | None:
    """The adapter's part for the embedding or the head."""
    return next((p for p in adapter.parts.values() if names.of(p.module, "weight") == target), None)


def unties(adapter: Adapter, names: Names) -> bool:
    """Whether a tied model's embedding and head are two different matrices after this adapter."""
    embedding, head = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    if adapter.keeps_tied:
        return False
    if embedding is None or head is None:
        part = embedding or head
        return part is not None and not _moves_both(part)
    return not _same(embedding, head)


def _moves_both(part: Part) -> bool:
    """Single rows, and a matrix that merely goes along, are the model's own: head and embedding."""
    if part.low_rank is not None:
        return False
    return part.tokens is not None or (part.weight is not None and not part.trained)


def _same(a: Part, b: Part) -> bool:
    """Whether two parts put the same rows, or the same matrix, in place of what there is."""
    if a.low_rank is not None or b.low_rank is not None:
        return False
    if (a.tokens is None) != (b.tokens is None) or (a.weight is None) != (b.weight is None):
        return False
    if a.tokens is not None and b.tokens is not None:
        same_rows = a.tokens[0] == b.tokens[0] and equal(a.tokens[1], b.tokens[1])
        if not same_rows:
            return False
    return a.weight is None or b.weight is None or equal(a.weight, b.weight)


def as_one(adapter: Adapter, names: Names) -> Adapter:
    """The adapter with one part for both: the embedding's, or else the head's in its place."""
    embedding, head = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    if head is None:
        return adapter
    parts = {m: p for m, p in adapter.parts.items() if p is not head}
    if embedding is None:
        parts[EMBEDDING_MODULE] = replace(head, module=EMBEDDING_MODULE)
    return replace(adapter, parts=parts)
