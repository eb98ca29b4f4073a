"""What becomes of one tensor while adapters are merged one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamatools.adapters.part import Part
from llamatools.expr.nodes import Expr
from llamatools.plan.passes.edits import (
    Added,
    ColumnLengths,
    Edit,
    LowRank,
    PatchedRows,
    Replaced,
    RowLengths,
    weighted,
)


@dataclass(frozen=True)
class Chain:
    """`start` with edits. The start is the base's own tensor, until something replaces it."""

    start: Expr
    edits: tuple[Edit, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.start.shape

    def then(self, replacement: Expr | None, edits: tuple[Edit, ...]) -> Chain:
        """Replaced, where there is a replacement, and then edited further."""
        if replacement is not None:
            return Chain(replacement, edits)
        return replace(self, edits=(*self.edits, *edits))

    def plus(self, weight: float, replacement: Expr | None, edits: tuple[Edit, ...]) -> Chain:
        """With a part of what the change does to the start alone."""
        first = (Replaced(replacement),) if replacement is not None else ()
        return replace(self, edits=(*self.edits, *weighted(weight, (*first, *edits))))


def weight_edits(part: Part, start: Expr, before: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """What a part does to a module's weight, which is `start` with the edits `before`."""
    edits: list[Edit] = [] if part.tokens is None else [PatchedRows(*part.tokens)]
    if part.low_rank is not None:
        low = part.low_rank
        edits.append(LowRank(low.left, low.right, low.scale))
    if part.magnitude is not None and part.is_embedding:
        edits.append(ColumnLengths(part.magnitude, start, (*before, *edits)))
    elif part.magnitude is not None:
        edits.append(RowLengths(part.magnitude))
    return tuple(edits)


def bias_edits(part: Part) -> tuple[Edit, ...]:
    """What a part does to a module's bias."""
    if part.added_bias is None:
        return ()
    scale, y = part.added_bias
    return (Added(y, scale),)


def advance(
    chain: Chain, replacement: Expr | None, part: Part, weight: float | None, *, bias: bool
) -> Chain:
    """The chain after a part: in sequence, or weighted beside others."""
    if weight is None:
        start = chain.start if replacement is None else replacement
        before = chain.edits if replacement is None else ()
        edits = bias_edits(part) if bias else weight_edits(part, start, before)
        return chain.then(replacement, edits)
    start = chain.start
    first = () if replacement is None else (Replaced(replacement),)
    edits = bias_edits(part) if bias else weight_edits(part, start, first)
    return chain.plus(weight, replacement, edits)
