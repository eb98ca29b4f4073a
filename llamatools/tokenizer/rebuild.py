"""From tokenizer.json back to what Meta's code reads: ranks, or a SentencePiece model.

A ranks file is the vocabulary alone, and comes back byte for byte. Scores of pieces are not in
tokenizer.json, only their order; of Meta's own model everything else is known, and it comes back
byte for byte too. `differences` says whether merges are those that a vocabulary implies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise

from llamatools.errors import NotRepresentable
from llamatools.text import count, listing
from llamatools.tokenizer import wire
from llamatools.tokenizer.bytelevel import to_bytes, to_text
from llamatools.tokenizer.json_read import JsonTokenizer
from llamatools.tokenizer.merges import order_of, rank_merges, score_merges
from llamatools.tokenizer.ranks import Ranks, checked
from llamatools.tokenizer.sentencepiece_model import (
    SPACE,
    Kind,
    Piece,
    SentencePieceModel,
    byte_piece,
    read_model,
)

Base = Ranks | SentencePieceModel

LLAMA_2_SHA256 = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
_SPACE_SCORE = -1e9
"""What Meta's training gave spaces, one or several."""


def rebuild(source: JsonTokenizer, where: str) -> Base:
    """The base vocabulary; NotRepresentable where Meta's form of it does not exist."""
    return _ranks(source, where) if source.byte_level else _model(source, where)


def differences(base: Base, source: JsonTokenizer) -> list[str]:
    """What in the vocabulary and merges of tokenizer.json is not as the base has it."""
    if isinstance(base, Ranks) != source.byte_level:
        return ["one is byte-level, the other SentencePiece"]
    texts = base_texts(base)
    problems = []
    shared = min(len(texts), len(source.vocab))
    other = [i for i in range(shared) if texts[i] != source.vocab[i]]
    if other:
        problems.append(f"{count(len(other), 'token')} have other ids: {listing(other)}")
    if len(source.vocab) < len(texts):
        problems.append(f"{count(len(texts) - len(source.vocab), 'token')} are missing")
    added = {a.text for a in source.added}
    more = [t for t in source.vocab[len(texts) :] if t not in added]
    if more:
        problems.append(f"{count(len(more), 'token')} follow its last: {listing(more)}")
    if isinstance(base, SentencePieceModel):
        problems += _setting_differences(base, source)
    return problems or list(_merge_differences(base, texts, source))


def _setting_differences(base: SentencePieceModel, source: JsonTokenizer) -> Iterator[str]:
    if base.dummy_prefix != source.dummy_prefix:
        yield "one puts a space in front of text, the other does not"
    if bool(base.of_kind(Kind.BYTE)) != source.byte_fallback:
        yield "one falls back on bytes for unknown characters, the other does not"


def base_texts(base: Base) -> list[str]:
    """A base's tokens as tokenizer.json spells them, by id."""
    if isinstance(base, Ranks):
        return [to_text(t) for t in base.tokens]
    return [p.text for p in base.pieces]


def _merge_differences(base: Base, texts: list[str], source: JsonTokenizer) -> Iterator[str]:
    pairs = rank_merges(base) if isinstance(base, Ranks) else score_merges(base)
    implied = [(texts[left], texts[right]) for left, right in pairs]
    if implied == list(source.merges):  # nearly always, and sets of them take seconds
        return
    expected, found = set(implied), set(source.merges)
    if expected - found:
        yield (
            f"{count(len(expected - found), 'merge')} of {len(expected):,} are missing, so that "
            "some text is split into other tokens"
        )
    if found - expected:
        yield f"{count(len(found - expected), 'merge')} more than the vocabulary implies"
    ids = {t: i for i, t in enumerate(texts)}
    order = list(order_of([m for m in source.merges if m in expected]))
    if isinstance(base, Ranks):
        places: list[float] = [ids[t] for t in order]
    else:
        places = [-base.pieces[ids[t]].score for t in order]
    if _falls(places):
        yield "merges are in another order than the vocabulary implies"


def _ranks(source: JsonTokenizer, where: str) -> Ranks:
    """All tokens up to the first added one. Ids are ranks only if merges follow them."""
    first = min((a.id for a in source.added), default=len(source.vocab))
    added = {a.text for a in source.added}
    later = [t for t in source.vocab[first:] if t not in added]
    try:
        tokens = [to_bytes(t) for t in source.vocab[:first]]
    except ValueError as e:
        raise NotRepresentable(
            f"{where}: a token that is not in the byte-level alphabet: {e}"
        ) from e
    if later:
        raise NotRepresentable(
            f"{where}: {count(len(later), 'token')} after the special tokens, which no ranks "
            f"file can hold: {listing(later)}"
        )
    ranks = checked(tuple(tokens), where)
    spelled = {to_text(t): i for t, i in ranks.rank.items()}
    places = [spelled[t] for t in order_of(source.merges) if t in spelled]
    if _falls(places):
        raise NotRepresentable(
            f"{where}: merges are not in the order of ids, as in a ranks file they must be",
            hint="this is no tokenizer of Llama 3 or 4; --to meta cannot hold it",
        )
    return ranks


def _model(source: JsonTokenizer, where: str) -> SentencePieceModel:
    kinds = _kinds(source)
    scores = _scores(source, kinds)
    pieces = [Piece(t, scores[t], kinds[t]) for t in source.vocab]
    roles = {a.text: a.id for a in source.added}
    for rest in (_llama_2_specs(), _plain_specs(source, pieces, roles)):
        data = b"".join(wire.field(1, p.encoded()) for p in pieces) + rest
        if sha256(data).hexdigest() == LLAMA_2_SHA256:
            break
    return read_model(data, where)


def _falls(places: Sequence[float]) -> bool:
    """Whether a sequence is somewhere not in order."""
    return any(a > b for a, b in pairwise(places))


def _kinds(source: JsonTokenizer) -> dict[str, Kind]:
    made = {left + right for left, right in source.merges}
    kinds = dict.fromkeys(source.vocab, Kind.NORMAL)
    if source.byte_fallback:
        kinds |= {t: Kind.BYTE for b in range(256) if (t := byte_piece(b)) in kinds}
    for a in source.added:
        if a.text in kinds and a.text not in made:
            kinds[a.text] = Kind.CONTROL if a.special else Kind.USER_DEFINED
    unknown = source.unknown or "<unk>"
    if unknown in kinds:
        kinds[unknown] = Kind.UNKNOWN
    return kinds


def _scores(source: JsonTokenizer, kinds: dict[str, Kind]) -> dict[str, float]:
    """Scores in the order of the merges: by id as in Meta's files if that is the same order."""
    normal = [t for t in source.vocab if kinds[t] is Kind.NORMAL]
    order = order_of(source.merges)
    made = [t for t in order if t.strip(SPACE)]
    spaces = [t for t in order if not t.strip(SPACE)]
    place = {t: i for i, t in enumerate(normal)}
    by_id = [place[t] for t in made]
    if _falls(by_id):
        rest = [t for t in normal if t not in order]
        place = {t: i for i, t in enumerate([*made, *spaces, *rest])}
    scores = {t: 0.0 if kinds[t] is not Kind.NORMAL else -float(place[t]) for t in source.vocab}
    if list(order)[len(made) :] == spaces:  # they merge last, where they lengthen runs
        scores |= dict.fromkeys([*spaces, SPACE] if SPACE in scores else spaces, _SPACE_SCORE)
    return scores


def _spec(number: int, values: dict[int, int | float | bytes | str]) -> bytes:
    return wire.field(number, b"".join(wire.field(n, v) for n, v in values.items()))


_NO_PAD = -1
_IDENTITY: dict[int, int | float | bytes | str] = {1: "identity", 2: b"", 3: 1, 4: 0, 6: b""}


def _llama_2_specs() -> bytes:
    """What Meta's model says of its training: figures that do nothing, and make its bytes whole."""
    trainer: dict[int, int | float | bytes | str] = {
        1: "/large_experiments/theorem/datasets/MERGED/all.test1.merged",
        2: "spm_model_32k_200M_charcov099995_allowWSO__v2",
        3: 2, 4: 32000, 6: 0, 7: "text", 10: 0.99995, 11: 200_000_000, 14: 1_000_000, 15: 0.75,
        16: 80, 17: 2, 18: 4192, 19: 1, 20: 16, 21: 1, 22: 1, 23: 1, 24: 0, 25: 1, 26: 1, 32: 1,
        33: 1, 34: 0, 35: 1, 36: b"", 40: 0, 41: 1, 42: 2, 43: _NO_PAD, 44: " ⁇ ", 45: "<unk>",
        46: "<s>", 47: "</s>", 48: "<pad>", 49: 0, 50: 0, 51: 0.0, 52: 0,
    }  # fmt: skip
    return _spec(2, trainer) + _spec(3, _IDENTITY)


def _plain_specs(source: JsonTokenizer, pieces: list[Piece], roles: dict[str, int]) -> bytes:
    """A trainer_spec and a normalizer_spec that say what matters for splitting text."""
    unknown = next((i for i, p in enumerate(pieces) if p.kind is Kind.UNKNOWN), 0)
    bos = source.bos if source.bos is not None else roles.get("<s>", _NO_PAD)
    eos = roles.get("</s>", _NO_PAD)
    trainer: dict[int, int | float | bytes | str] = {
        3: 2, 4: len(pieces), 21: 1, 22: 1, 23: 1, 24: 0, 25: 1, 26: 1,
        35: int(source.byte_fallback), 40: unknown, 41: bos, 42: eos, 43: _NO_PAD,
    }  # fmt: skip
    names = {45: unknown, 46: bos, 47: eos}
    trainer |= {n: pieces[i].text for n, i in names.items() if 0 <= i < len(pieces)}
    return _spec(2, trainer) + _spec(3, {**_IDENTITY, 3: int(source.dummy_prefix)})
