"""SentencePiece models of kind BPE: `tokenizer.model` of Llama 1, 2, Code Llama and descendants.

The format is `sentencepiece_model.proto` of the SentencePiece project. What is not understood
(training options, self-tests) is kept as the bytes it came in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from llamatools.errors import BadInput, Unsupported
from llamatools.text import count, listing, safe
from llamatools.tokenizer import wire
from llamatools.tokenizer.limits import MAX_TOKEN_BYTES, MAX_TOKENS

SPACE = "▁"
"""What stands for a space in pieces (U+2581)."""

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_KINDS_OF_MODEL = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}


class Kind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: Kind = Kind.NORMAL

    def encoded(self) -> bytes:
        """As SentencePiece's trainer writes it: the kind only where it is not the usual one."""
        kind = b"" if self.kind is Kind.NORMAL else wire.field(3, int(self.kind))
        return wire.field(1, self.text) + wire.field(2, float(self.score)) + kind


@dataclass(frozen=True)
class Roles:
    """Ids that play a part; None where the tokenizer has none."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None


@dataclass(frozen=True)
class SentencePieceModel:
    """A BPE model. `encoded_pieces` and `rest` together are its file."""

    pieces: tuple[Piece, ...]
    roles: Roles
    dummy_prefix: bool
    """Text gets a space in front before it is split."""
    encoded_pieces: bytes
    rest: bytes

    def to_bytes(self) -> bytes:
        return self.encoded_pieces + self.rest

    @cached_property
    def ids(self) -> dict[str, int]:
        return {p.text: i for i, p in enumerate(self.pieces)}

    @cached_property
    def bytes_of(self) -> tuple[bytes | None, ...]:
        """What each piece stands for in text; None for those that stand for nothing."""
        return tuple(_bytes_of(p) for p in self.pieces)

    def of_kind(self, *kinds: Kind) -> list[int]:
        return [i for i, p in enumerate(self.pieces) if p.kind in kinds]

    @cached_property
    def tied(self) -> tuple[str, ...]:
        """Pieces whose score another piece has too, so that position in the text decides.

        Runs of spaces are left out: every model ties them, and longest-first merges do the same.
        """
        normal = [
            p for p in self.pieces if p.kind is Kind.NORMAL and len(p.text) > 1
            and p.text.strip(SPACE)
        ]  # fmt: skip
        scores = Counter(p.score for p in normal)
        return tuple(p.text for p in normal if scores[p.score] > 1)


def _bytes_of(piece: Piece) -> bytes | None:
    if piece.kind is Kind.BYTE:
        return bytes([int(piece.text[3:5], 16)])
    if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED):
        return piece.text.replace(SPACE, " ").encode()
    return None


def byte_piece(byte: int) -> str:
    return f"<0x{byte:02X}>"


def read_model(data: bytes, where: str) -> SentencePieceModel:
    """A model that can be used as a Llama's tokenizer.

    BadInput for bytes that are no SentencePiece model, Unsupported for one of another kind.
    """
    pieces, encoded, rest, specs = _split(data, where)
    trainer = {n: v for n, _, v in wire.fields(specs[_TRAINER], f"{where}: trainer_spec")}
    normalizer = {n: v for n, _, v in wire.fields(specs[_NORMALIZER], f"{where}: normalizer_spec")}
    _refuse(trainer, normalizer, pieces, where)
    model = SentencePieceModel(
        pieces=pieces,
        roles=_roles(trainer, len(pieces)),
        dummy_prefix=bool(normalizer.get(3, 1)),
        encoded_pieces=encoded,
        rest=rest,
    )
    _check_pieces(model, where)
    return model


def extended(model: SentencePieceModel, pieces: Iterable[Piece], where: str) -> SentencePieceModel:
    """A model with more pieces after its own, and otherwise the bytes it had."""
    appended = b"".join(wire.field(_PIECES, p.encoded()) for p in pieces)
    return read_model(model.encoded_pieces + appended + model.rest, where)


def read_pieces(data: bytes, where: str) -> tuple[Piece, ...]:
    """The pieces of a model of any kind, Unigram among them."""
    return _split(data, where)[0]


def _split(data: bytes, where: str) -> tuple[tuple[Piece, ...], bytes, bytes, dict[int, bytes]]:
    """(pieces, their bytes, the bytes of the rest, {trainer and normaliser: bytes})."""
    pieces: list[Piece] = []
    encoded, rest = [], []
    specs = {_TRAINER: b"", _NORMALIZER: b""}
    for number, kind, value in wire.fields(data, where):
        if number in (_PIECES, *specs) and kind != wire.BYTES:
            raise BadInput(f"{where}: field {number} is not a message: no SentencePiece model")
        if number == _PIECES and isinstance(value, bytes):
            if len(pieces) == MAX_TOKENS:
                raise BadInput(f"{where}: more than {MAX_TOKENS:,} pieces")
            pieces.append(_piece(value, len(pieces), where))
            encoded.append(wire.field(_PIECES, value))
            continue
        if number in specs and isinstance(value, bytes):
            specs[number] += value  # protobuf merges messages that come in parts
        rest.append(wire.raw(number, kind, value))
    if not pieces:
        raise BadInput(f"{where}: no pieces: not a SentencePiece model")
    return tuple(pieces), b"".join(encoded), b"".join(rest), specs


def _piece(data: bytes, index: int, where: str) -> Piece:
    here = f"{where}: piece {index}"
    found: dict[int, int | bytes] = {n: v for n, _, v in wire.fields(data, here)}
    text, kind = found.get(1), found.get(3, 1)
    score = wire.float32(found.get(2, bytes(4)))
    if not isinstance(text, bytes) or not isinstance(kind, int):
        raise BadInput(f"{here}: no text, or no kind: not a SentencePiece model")
    if not text or score is None or math.isnan(score):
        raise BadInput(f"{here}: empty, or without score: not a SentencePiece model")
    if len(text) > MAX_TOKEN_BYTES:
        raise BadInput(f"{here}: {len(text):,} bytes of text, more than any piece has")
    try:
        return Piece(text.decode(), score, Kind(kind))
    except (UnicodeDecodeError, ValueError):
        raise BadInput(f"{here}: text that is not UTF-8, or an unknown kind {kind!r}") from None


def _roles(trainer: dict[int, int | bytes], n: int) -> Roles:
    """Ids from the training options, with SentencePiece's own defaults."""
    usual = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    found = {}
    for role, (number, default) in usual.items():
        value = trainer.get(number, default)
        index = wire.signed(value) if isinstance(value, int) else -1
        found[role] = index if 0 <= index < n else None
    return Roles(**found)


def _refuse(
    trainer: dict[int, int | bytes],
    normalizer: dict[int, int | bytes],
    pieces: tuple[Piece, ...],
    where: str,
) -> None:
    """Unsupported for models that do not split text the way a Llama's does."""
    kind = trainer.get(3, 1)
    if kind != 2:
        found = _KINDS_OF_MODEL.get(kind, "unknown") if isinstance(kind, int) else "unknown"
        raise Unsupported(
            f"{where}: a SentencePiece model of kind {found}, not BPE",
            hint="Llama tokenizers are BPE; is this another model's file?",
        )
    problems = []
    if normalizer.get(2):
        name = normalizer.get(1, b"")
        shown = safe(name.decode(errors="replace")) if isinstance(name, bytes) else "unnamed"
        problems.append(f"{where}: rewrites characters before splitting (normalizer {shown})")
    if normalizer.get(4, 1):
        problems.append(f"{where}: removes extra spaces, which no Llama tokenizer does")
    if not normalizer.get(5, 1):
        problems.append(f"{where}: keeps spaces as they are instead of writing them as {SPACE}")
    if trainer.get(24):
        problems.append(f"{where}: puts the space at the end of words")
    unused = [p.text for p in pieces if p.kind is Kind.UNUSED]
    if unused:
        problems.append(f"{where}: holds {count(len(unused), 'unused piece')}: {listing(unused)}")
    if problems:
        raise Unsupported(problems)


def _check_pieces(model: SentencePieceModel, where: str) -> None:
    problems = []
    twice = [t for t, n in Counter(p.text for p in model.pieces).items() if n > 1]
    if twice:
        problems.append(f"{where}: pieces that stand there twice: {listing(twice)}")
    found = [p.text for p in model.pieces if p.kind is Kind.BYTE]
    if found and sorted(found) != [byte_piece(b) for b in range(256)]:
        problems.append(f"{where}: byte pieces are not those of all 256 bytes")
    if len(model.of_kind(Kind.UNKNOWN)) != 1:
        problems.append(f"{where}: not exactly one piece for what is unknown")
    if problems:
        raise BadInput(problems)
