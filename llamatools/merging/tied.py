"""A head that is the embedding, and adapters that change one of the two.

Training on a tied model changes what the adapter wraps: with LoRA on the embedding, the head is
still the base's. So the two part, unless the adapter says that it kept them together.
"""

from __future__ import annotations

from dataclasses import replace

from llamatools.adapters.part import Adapter, Part
from llamatools.canonical import EMBEDDING, HEAD
from llamatools.expr.nodes import Expr
from llamatools.expr.probe import equal
from llamatools.merging.fit import Names

EMBEDDING_MODULE, HEAD_MODULE = "model.embed_tokens", "lm_head"


def find(adapter: Adapter, names: Names, target: str) -> Part | None:
    """The adapter's part for the embedding or the head."""
    return next((p for p in adapter.parts.values() if names.of(p.module, "weight") == target), None)


def unties(adapter: Adapter, names: Names) -> bool:
    """Whether a tied model's embedding and head are two different matrices after this adapter."""
    embedding, head = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    if embedding is not None and head is not None:
        return not _agree(embedding, head)
    part = embedding or head
    if part is None or _goes_along(part):
        return False
    return part.tokens is not None or not adapter.keeps_tied


def _goes_along(part: Part) -> bool:
    """A matrix that was saved since it has another size is both the embedding and the head."""
    return part.low_rank is None and part.weight is not None and not part.trained


def _agree(a: Part, b: Part) -> bool:
    """Whether two parts make the same matrix of the same one.

    DoRA measures an embedding's columns and a head's rows, so that its two results differ.
    """
    if a.magnitude is not None or b.magnitude is not None:
        return False
    rows = [p.tokens and p.tokens[0] for p in (a, b)]
    scales = [p.low_rank and p.low_rank.scale for p in (a, b)]
    return (
        rows[0] == rows[1]
        and scales[0] == scales[1]
        and all(map(_equal, _matrices(a), _matrices(b)))
    )


def _matrices(part: Part) -> tuple[Expr | None, ...]:
    low = part.low_rank
    return (
        part.weight,
        low.left if low else None,
        low.right if low else None,
        part.tokens[1] if part.tokens else None,
    )


def _equal(a: Expr | None, b: Expr | None) -> bool:
    if a is None or b is None:
        return a is b
    return equal(a, b)


def shared_start(adapter: Adapter, names: Names) -> Expr | None:
    """A matrix that goes along with an adapter in place of the base's: of head and embedding."""
    parts = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    return next((p.weight for p in parts if p and p.weight is not None and not p.trained), None)


def as_two(adapter: Adapter, names: Names) -> Adapter:
    """The adapter with what it does to a tied head as well as to the embedding, said of both.

    PEFT gives a tied head the rows that are trained for the embedding, unless it has rows of its
    own; the embedding is never given the head's.
    """
    embedding, head = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    if embedding is None or embedding.tokens is None or (head and head.tokens):
        return adapter
    head = replace(head or Part(HEAD_MODULE), tokens=embedding.tokens)
    return replace(adapter, parts={**adapter.parts, head.module: head})


def as_one(adapter: Adapter, names: Names) -> Adapter:
    """The adapter with one part for both: the embedding's, or else the head's in its place."""
    embedding, head = (find(adapter, names, name) for name in (EMBEDDING, HEAD))
    if head is None:
        return adapter
    parts = {m: p for m, p in adapter.parts.items() if p is not head}
    if embedding is None:
        parts[EMBEDDING_MODULE] = replace(head, module=EMBEDDING_MODULE)
    return replace(adapter, parts=parts)
