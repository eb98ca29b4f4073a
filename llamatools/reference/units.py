"""What a forward pass reads at once: a layer, or some rows of the head; and where it lies then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.expr.nodes import Expr, bare
from llamatools.spec import ModelSpec

FINAL_NORM = "norm.weight"

_ALIGN = 256
"""Bytes between beginnings of tensors: what processors and GPUs want for matrices."""


@dataclass(frozen=True)
class Piece:
    """Rows start .. stop of a tensor; `name` is its canonical one, without the layer's prefix."""

    name: str
    value: Expr
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.value.shape[1:])

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.value.dtype.size


@dataclass(frozen=True, eq=False)
class Unit:
    """Pieces that lie side by side in one piece of memory."""

    name: str
    pieces: tuple[Piece, ...]

    @cached_property
    def places(self) -> tuple[tuple[Piece, int], ...]:
        """Each piece and its first byte."""
        out, at = [], 0
        for piece in self.pieces:
            out.append((piece, at))
            at += -(-piece.nbytes // _ALIGN) * _ALIGN
        return tuple(out)

    @property
    def size(self) -> int:
        """Bytes of memory, gaps included."""
        return max((at + piece.nbytes for piece, at in self.places), default=0)

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.pieces)


def layer(source: Checkpoint, i: int) -> Unit:
    """All tensors of a layer."""
    prefix = f"layers.{i}."
    values = {n.removeprefix(prefix): v for n, v in source.values.items() if n.startswith(prefix)}
    return Unit(prefix[:-1], tuple(Piece(n, bare(v), 0, v.rows) for n, v in values.items()))


def head_value(source: Checkpoint) -> Expr:
    """The head as it is stored; a model that stores none has the embedding's."""
    return bare(source.values.get(HEAD) or source.values[EMBEDDING])


def head_rows(spec: ModelSpec, granule: int) -> int:
    """Rows of the head read at once: together about as large as the largest matrix of a layer."""
    largest = max(spec.ffn_dim, spec.q_dim)
    return min(spec.vocab_size, max(1, largest // granule) * granule)


def head_units(source: Checkpoint) -> Iterator[Unit]:
    """The head, some rows at a time."""
    value = head_value(source)
    height = head_rows(source.spec, value.granule)
    for start in range(0, value.rows, height):
        stop = min(start + height, value.rows)
        yield Unit(f"head {start}", (Piece(HEAD, value, start, stop),))
