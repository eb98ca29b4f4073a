"""A SentencePiece vocabulary extended with another's pieces, as Chinese-LLaMA was made.

Pieces that the base lacks follow its own, in the order of the other model, with score 0. The base
keeps its ids, and everything else that its file says.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.errors import BadInput
from llamatools.tokenizer.sentencepiece_model import Piece, SentencePieceModel, extended


@dataclass(frozen=True)
class Merged:
    model: SentencePieceModel
    added: int
    shared: int
    """Pieces of the other model that the base has already."""


def merge(base: SentencePieceModel, extra: tuple[Piece, ...]) -> Merged:
    """The base with the pieces of `extra` that it lacks. BadInput where there is none."""
    known = set(base.ids)
    new = list(dict.fromkeys(p.text for p in extra if p.text not in known))
    if not new:
        raise BadInput("every piece of the second model is in the first: nothing to add")
    model = extended(base, (Piece(text, 0.0) for text in new), "merged model")
    return Merged(model, len(new), len(extra) - len(new))
