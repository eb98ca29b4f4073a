"""A tokenizer as this package knows it, whichever files it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import Kind, Roles, SentencePieceModel
from llamatools.tokenizer.versions import PATTERN_3, Version

INFILL = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
"""Code Llama's tokens for filling in the middle: ordinary pieces that play a part."""


@dataclass(frozen=True)
class Added:
    """A token beside the base vocabulary."""

    id: int
    text: str
    special: bool = True
    """Left out of decoded text, and never read from plain text."""


@dataclass(frozen=True)
class Tokenizer:
    base: Ranks | SentencePieceModel
    added: tuple[Added, ...] = ()
    """Tokens after the base's, by id."""
    roles: Roles = field(default_factory=Roles)
    version: Version | None = None
    """Of ranks files: whose special tokens these are, where they are a version's."""
    pattern: str = PATTERN_3
    """Of ranks files: how text is cut before merging."""

    @property
    def kind(self) -> str:
        return "ranks" if isinstance(self.base, Ranks) else "sentencepiece"

    @property
    def base_size(self) -> int:
        base = self.base
        return len(base.tokens if isinstance(base, Ranks) else base.pieces)

    @property
    def size(self) -> int:
        """Ids are below this."""
        return max([self.base_size, *(a.id + 1 for a in self.added)])

    @cached_property
    def specials(self) -> dict[int, str]:
        """id -> text of all tokens that are not read from plain text, by id."""
        found = {a.id: a.text for a in self.added if a.special}
        if isinstance(self.base, SentencePieceModel):
            pieces = self.base.pieces
            found |= {i: pieces[i].text for i in self.base.of_kind(Kind.UNKNOWN, Kind.CONTROL)}
            found |= {self.base.ids[t]: t for t in infill(self.base)}
        return dict(sorted(found.items()))

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """id -> the bytes a token stands for in text; specials stand for none."""
        base = self.base
        plain = base.tokens if isinstance(base, Ranks) else base.bytes_of
        found = {i: b for i, b in enumerate(plain) if b is not None and i not in self.specials}
        return found | {a.id: a.text.encode() for a in self.added if not a.special}

    def shown(self, token: int) -> str:
        """A token as a person would want to see it: quoted text, or bytes that are none."""
        if token in self.specials:
            return self.specials[token]
        spelled = self.token_bytes.get(token, b"")
        try:
            return repr(spelled.decode())
        except UnicodeDecodeError:
            return repr(spelled)


def infill(model: SentencePieceModel) -> tuple[str, ...]:
    """Code Llama's infill pieces, where a model holds all of them."""
    return INFILL if all(t in model.ids for t in INFILL) else ()


def from_model(model: SentencePieceModel) -> Tokenizer:
    """A SentencePiece model with its roles, as far as special pieces have them."""
    tokenizer = Tokenizer(model)
    roles = {r: i for r, i in asdict(model.roles).items() if i in tokenizer.specials}
    return replace(tokenizer, roles=Roles(**roles))


def from_ranks(ranks: Ranks, version: Version) -> Tokenizer:
    """A ranks file with the special tokens of a version."""
    first = len(ranks.tokens)
    added = tuple(Added(first + i, name) for i, name in enumerate(version.specials))
    ids = {a.text: a.id for a in added}
    roles = Roles(
        bos=ids[version.bos],
        eos=ids[version.eos],
        pad=ids[version.pad] if version.pad else None,
    )
    return Tokenizer(ranks, added, roles, version, version.pattern)
