"""Which rows of a model another tokenizer's tokens get: its tokens found among the old ones.

A token that both have keeps its row. One that spells the same bytes as an old token gets that
token's row, an ordinary token's rather than a byte's. Of the rest, each is the mean of the old
tokens that its bytes are made of; what has no bytes is the mean of all. Special tokens go by
their role, then by their name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llamatools.tokenizer.encoders import meta_encoder
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import Kind, byte_piece
from llamatools.tokenizer.tokenizer import Tokenizer

_ROLES = ("bos", "eos", "pad", "unk")


@dataclass(frozen=True)
class Match:
    """For each new row the old rows it is made of: one, several for a mean, none for all."""

    sources: tuple[Sequence[int], ...]
    origins: dict[str, int]
    """How many rows came from where."""
    extends: bool
    """The old vocabulary is the beginning of the new one."""


def match_rows(old: Tokenizer, new: Tokenizer, size: int) -> Match:
    """Sources of `size` rows: those of the new tokenizer's tokens, then padding."""
    finder = _Finder(old, new)
    found = [finder.find(i) for i in range(new.size)]
    split = [i for i, (origin, _) in enumerate(found) if origin == "averaged"]
    for i, ids in zip(split, _split(old, [new.token_bytes[i] for i in split]), strict=True):
        found[i] = ("averaged", ids) if ids else ("mean", ())
    found += [("padding", ())] * (size - new.size)
    origins = Counter(origin for origin, _ in found)
    extends = new.size >= old.size and all(found[i][1] == (i,) for i in range(old.size))
    return Match(
        tuple(ids for _, ids in found),
        {k: origins[k] for k in ("copied", "special", "averaged", "mean", "padding")},
        extends,
    )


class _Finder:
    """Looks up one new token among the old ones."""

    def __init__(self, old: Tokenizer, new: Tokenizer) -> None:
        self._new = new
        self._same = {_identity(old, i): i for i in reversed(range(old.size))}
        self._special = {text: i for i, text in old.specials.items()}
        self._by_bytes: dict[bytes, int] = {}
        for i in sorted(old.token_bytes, key=lambda i: (_is_byte(old, i), i)):
            self._by_bytes.setdefault(old.token_bytes[i], i)
        self._by_role = {
            there: here
            for role in _ROLES
            if (here := getattr(old.roles, role)) is not None
            and (there := getattr(new.roles, role)) is not None
        }

    def find(self, i: int) -> tuple[str, Sequence[int]]:
        """(origin, old rows); what is to be averaged is left for later."""
        token = self._new.token_bytes.get(i)
        if token is None:
            text = self._new.specials.get(i)
            row = self._by_role.get(i, self._special.get(text) if text is not None else None)
            return ("special", (row,)) if row is not None else ("mean", ())
        row = self._same.get(_identity(self._new, i), self._by_bytes.get(token))
        return ("copied", (row,)) if row is not None else ("averaged", ())


def _is_byte(tokenizer: Tokenizer, i: int) -> bool:
    """Whether a token is one of SentencePiece's byte pieces, which ordinary ones outrank."""
    base = tokenizer.base
    inside = not isinstance(base, Ranks) and i < len(base.pieces)
    return inside and base.pieces[i].kind is Kind.BYTE  # type: ignore[union-attr]


def _identity(tokenizer: Tokenizer, i: int) -> tuple[bool, bytes | None, str]:
    """Equal for tokens of two vocabularies that are the same token."""
    plain = tokenizer.token_bytes.get(i)
    return _is_byte(tokenizer, i), plain, tokenizer.specials.get(i, "")


def _split(old: Tokenizer, tokens: list[bytes]) -> list[tuple[int, ...]]:
    """The old tokens that the bytes of each new token are made of, without dummy prefix."""
    texts = [t.decode(errors="surrogateescape") for t in tokens]
    whole = [i for i, t in enumerate(texts) if t.isascii() or not _has_loose_bytes(t)]
    encoder = meta_encoder(old, prefix=False)
    encoded = dict(zip(whole, encoder.encode([texts[i] for i in whole]), strict=True))
    unknown = old.roles.unk
    out = []
    for i, token in enumerate(tokens):
        ids = encoded[i] if i in encoded else _split_bytes(old, token)
        out.append(tuple(x for x in ids if x != unknown))
    return out


def _has_loose_bytes(text: str) -> bool:
    """Whether decoding left bytes that are no character."""
    return any("\udc80" <= c <= "\udcff" for c in text)


def _split_bytes(old: Tokenizer, token: bytes) -> list[int]:
    """A token that is not text: merged as bytes, or, of SentencePiece, one piece a byte."""
    if isinstance(old.base, Ranks):
        return old.base.encode_piece(token)
    ids = old.base.ids
    return [ids[piece] for b in token if (piece := byte_piece(b)) in ids]
