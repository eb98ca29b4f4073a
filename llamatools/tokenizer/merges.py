"""From a vocabulary to the merges that tokenizer.json lists, complete and in order.

A rule of the kind "merge whatever pair makes the best token" is a list of pairs only if the list
has *every* pair that makes a token, not one each: text decides which of them comes up.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import Kind, SentencePieceModel

Pair = tuple[int, int]
"""Ids of the left and the right half."""


def rank_merges(ranks: Ranks) -> list[Pair]:
    """Every pair that makes a token, by the token's rank, then by the ids of the halves."""
    out: list[Pair] = []
    rank = ranks.rank
    find = rank.get
    for token in ranks.tokens:
        n = len(token)
        if n == 1:
            continue
        pairs = [
            (left, right)
            for cut in range(1, n)
            if (left := find(token[:cut])) is not None and (right := find(token[cut:])) is not None
        ]
        pairs.sort()
        out += pairs
    return out


def score_merges(model: SentencePieceModel) -> list[Pair]:
    """Every pair of pieces that makes a piece, by the piece's score, best first.

    Among equal scores longer left halves come first. For runs of spaces, which models tie, that
    is what SentencePiece does: it takes the leftmost pair, and so lengthens the run at the left.
    """
    normal = {p.text: i for i, p in enumerate(model.pieces) if p.kind is Kind.NORMAL}
    found = []
    for text in normal:
        score = model.pieces[normal[text]].score
        for cut in range(1, len(text)):
            left = normal.get(text[:cut])
            right = normal.get(text[cut:])
            if left is not None and right is not None:
                found.append((-score, -cut, cut - len(text), left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def order_of(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each merged text's place in a list of merges: that of the first pair that makes it."""
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    return order
