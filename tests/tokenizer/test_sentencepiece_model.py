"""SentencePiece models: byte for byte there and back; other kinds refused; hostile bytes named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from support.vocabularies import MISTRAL, MISTRAL_V3, sentencepiece_model

from llamatools.errors import BadInput, Unsupported
from llamatools.tokenizer import sentencepiece_model as module
from llamatools.tokenizer import wire
from llamatools.tokenizer.combine import read_base
from llamatools.tokenizer.sentencepiece_model import (
    Kind,
    Piece,
    SentencePieceModel,
    byte_piece,
    read_model,
    read_pieces,
)

GOLDEN = Path(__file__).parents[2] / "golden/tokenizer/tokenizer.model"
FILES = {"mistral": MISTRAL, "mistral-v3": MISTRAL_V3, "golden": GOLDEN, "small": None}


def load(name: str) -> bytes:
    path = FILES[name]
    return path.read_bytes() if path else sentencepiece_model()


def spec(number: int, **values: int | bytes) -> bytes:
    """A message of settings: spec(2, f3=2) sets field 3."""
    return wire.field(number, b"".join(wire.field(int(k[1:]), v) for k, v in values.items()))


UNK = Piece("<unk>", 0.0, Kind.UNKNOWN)
BPE, PLAIN = spec(2, f3=2), spec(3, f1=b"identity", f4=0)


def model(*pieces: bytes | Piece, rest: bytes = BPE + PLAIN) -> bytes:
    """A file of pieces, each as its message or as its bytes."""
    encoded = (p.encoded() if isinstance(p, Piece) else p for p in pieces)
    return b"".join(wire.field(1, e) for e in encoded) + rest


def ids(*names: str) -> list[Piece]:
    return [Piece(name, -float(i)) for i, name in enumerate(names)]


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_comes_back_byte_for_byte(name: str) -> None:
    data = load(name)
    found = read_model(data, "file")
    assert found.to_bytes() == data
    if name != "mistral-v3":  # another program wrote it, and says of usual pieces that they are
        assert b"".join(wire.field(1, p.encoded()) for p in found.pieces) == found.encoded_pieces
    assert read_pieces(data, "file") == found.pieces
    assert read_base(data, "file") == found


@pytest.mark.parametrize("name", FILES)
def test_every_piece_is_as_sentencepiece_reads_it(name: str) -> None:
    oracle = sentencepiece.SentencePieceProcessor()
    oracle.LoadFromSerializedProto(load(name))
    found = read_model(load(name), "file")
    assert len(found.pieces) == oracle.get_piece_size()
    for i, piece in enumerate(found.pieces):
        assert (piece.text, piece.score) == (oracle.id_to_piece(i), oracle.get_score(i))
        kinds = (oracle.is_unknown(i), oracle.is_control(i), oracle.is_byte(i), oracle.is_unused(i))
        assert kinds == tuple(
            piece.kind is k for k in (Kind.UNKNOWN, Kind.CONTROL, Kind.BYTE, Kind.UNUSED)
        )
    roles = found.roles
    assert (roles.bos, roles.eos, roles.unk) == (oracle.bos_id(), oracle.eos_id(), oracle.unk_id())
    assert (roles.pad if roles.pad is not None else -1) == oracle.pad_id()


def test_roles_are_sentencepieces_where_a_model_says_nothing_or_others() -> None:
    usual = read_model(model(UNK, *ids("a", "b")), "file").roles
    assert (usual.unk, usual.bos, usual.eos, usual.pad) == (0, 1, 2, None)
    none = spec(2, f3=2, f41=-1, f42=-1)
    assert read_model(model(UNK, *ids("a"), rest=none + PLAIN), "file").roles.bos is None
    far = spec(2, f3=2, f41=2**31 - 1, f42=2**40, f43=1)
    roles = read_model(model(UNK, *ids("a"), rest=far + PLAIN), "file").roles
    assert (roles.bos, roles.eos, roles.pad) == (None, None, 1)


@pytest.mark.parametrize("pad", [-1, 3])
def test_trained_roles(pad: int) -> None:
    assert read_model(sentencepiece_model(pad_id=pad), "file").roles.pad == (3 if pad > 0 else None)


def test_the_dummy_prefix() -> None:
    assert read_model(sentencepiece_model(), "file").dummy_prefix
    assert not read_model(sentencepiece_model(add_dummy_prefix=False), "file").dummy_prefix


def test_messages_in_parts_are_one() -> None:
    """Protocol buffers merge them: what is said last counts, the rest stays."""
    parts = spec(2, f3=2) + spec(3, f3=1, f4=0) + spec(2, f41=-1) + spec(3, f3=0)
    found = read_model(model(UNK, *ids("a", "b"), rest=parts), "file")
    assert (found.roles.bos, found.roles.eos, found.dummy_prefix) == (None, 2, False)


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [("unigram", 330, "Unigram"), ("word", 20, "word"), ("char", 40, "character")],
)
def test_other_kinds_of_models_are_refused_by_name(kind: str, size: int, said: str) -> None:
    data = sentencepiece_model(size, kind=kind, byte_fallback=kind == "unigram")
    for read in (read_model, read_base):
        with pytest.raises(Unsupported, match=f"of kind {said}, not BPE"):
            read(data, "file")
    assert read_pieces(data, "file")  # but a vocabulary may be extended with its pieces


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "rewrites characters .*nmt_nfkc"),
        ({"remove_extra_whitespaces": True}, "removes extra spaces"),
        ({"treat_whitespace_as_suffix": True}, "space at the end of words"),
    ],
)
def test_other_treatment_of_text_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        read_model(sentencepiece_model(**options), "file")


def test_all_that_is_unlike_a_llama_is_said_at_once() -> None:
    rest = spec(2, f3=2, f24=1) + spec(3, f1=b"\x1b[31m\xff::error::", f2=b"map", f4=1, f5=0)
    with pytest.raises(Unsupported) as e:
        read_model(model(UNK, Piece("x", 0.0, Kind.UNUSED), rest=rest), "file")
    assert len(e.value.problems) == 5
    assert all(p.isprintable() and "::" not in p.removeprefix("file:") for p in e.value.problems)


def test_unused_pieces_are_refused() -> None:
    with pytest.raises(Unsupported, match="holds 1 unused piece: x"):
        read_model(model(UNK, *ids("a"), Piece("x", 0.0, Kind.UNUSED)), "file")


ALL_BYTES = [Piece(byte_piece(b), 0.0, Kind.BYTE) for b in range(256)]
NO_TEXT = wire.field(2, 0.5)
BROKEN = {
    "no pieces": (BPE + PLAIN, "no pieces"),
    "piece without text": (model(UNK, NO_TEXT), "piece 1: no text"),
    "empty piece": (model(UNK, wire.field(1, "")), "piece 1: empty"),
    "text that is a number": (model(UNK, wire.field(1, 5)), "piece 1: no text"),
    "text that is not UTF-8": (model(UNK, wire.field(1, b"a\xff")), "piece 1: .*not UTF-8"),
    "half of a surrogate pair": (model(UNK, wire.field(1, b"\xed\xa0\x80")), "not UTF-8"),
    "overlong UTF-8": (model(UNK, wire.field(1, b"\xc0\x80")), "not UTF-8"),
    "score that is no number": (model(UNK, Piece("a", float("nan"))), "without score"),
    "score of another type": (model(UNK, wire.field(1, "a") + wire.field(2, 7)), "without score"),
    "kind 0": (model(UNK, wire.field(1, "a") + wire.field(3, 0)), "unknown kind 0"),
    "kind 7": (model(UNK, wire.field(1, "a") + wire.field(3, 7)), "unknown kind 7"),
    "kind of another type": (model(UNK, wire.field(1, "a") + wire.field(3, "x")), "no kind"),
    "piece that ends early": (model(UNK, b"\x0a\x05ab"), "piece 1: field 1 claims 5 bytes"),
    "piece that is a number": (model(UNK) + wire.field(1, 3), "field 1 is not a message"),
    "settings that are a number": (model(UNK) + wire.field(2, 3), "field 2 is not a message"),
    "settings that end early": (model(UNK) + wire.field(2, b"\x08"), "trainer_spec: a number"),
    "normalizer that ends early": (model(UNK) + wire.field(3, b"\x0a\x09"), "normalizer_spec"),
    "piece twice": (model(UNK, *ids("a", "b"), Piece("a", -9.0)), "stand there twice: a"),
    "no unknown": (model(*ids("a", "b")), "not exactly one piece for what is unknown"),
    "two unknowns": (model(UNK, Piece("<u>", 0.0, Kind.UNKNOWN)), "not exactly one piece"),
    "a byte missing": (model(UNK, *ALL_BYTES[:-1]), "byte pieces are not those of all 256"),
    "a byte twice": (model(UNK, *ALL_BYTES[:-1], ALL_BYTES[0]), "byte pieces are not those"),
    "a byte in other letters": (
        model(UNK, *ALL_BYTES[:-1], Piece("<0xff>", 0.0, Kind.BYTE)),
        "byte pieces are not those",
    ),
    "a byte of no number": (model(UNK, Piece("<zz>", 0.0, Kind.BYTE)), "byte pieces are not those"),
    "something after the end": (model(UNK) + b"\x0a\xff", "does not end"),
    "claims terabytes": (model(UNK) + b"\x0a\xff\xff\xff\xff\xff\x7f", "are left"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models(name: str) -> None:
    data, said = BROKEN[name]
    with pytest.raises(BadInput, match=said) as e:
        read_model(data, "file")
    assert type(e.value) is BadInput
    assert all(p.startswith("file: ") and p.isprintable() for p in e.value.problems)


def test_what_the_broken_models_are_made_of_is_sound() -> None:
    """The control: without the one fault each of them would be read."""
    found = read_model(model(UNK, *ids("a", "b"), *ALL_BYTES), "file")
    assert len(found.pieces) == 259
    assert read_model(model(UNK, Piece("a", float("-inf"))), "file").pieces[1].score < -1e300


def test_too_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 100)
    with pytest.raises(BadInput, match="more than 100 pieces"):
        read_model(sentencepiece_model(), "file")


def test_fields_that_nobody_knows_stay() -> None:
    extra = wire.field(200, "later versions") + wire.raw(201, wire.FIXED64, b"12345678")
    data = model(UNK, wire.field(1, "a") + wire.field(100, "more"), rest=BPE + PLAIN + extra)
    assert read_model(data, "file").to_bytes() == data


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    for read in (read_model, read_pieces, read_base):
        with pytest.raises(BadInput):
            read(data, "file")


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_random_bytes_in_the_right_places(piece: bytes, trainer: bytes, normalizer: bytes) -> None:
    data = model(UNK, piece, rest=wire.field(2, trainer) + wire.field(3, normalizer))
    assert read_or_none(data) is None or b"\x03\x02" in b"\x03" + trainer


def read_or_none(data: bytes) -> SentencePieceModel | None:
    try:
        return read_model(data, "file")
    except BadInput:
        return None


def test_files_cut_short_are_refused() -> None:
    """Without its settings, which come last, a model is none of BPE."""
    data = sentencepiece_model()
    end_of_pieces = len(read_model(data, "file").encoded_pieces)
    for end in (*range(0, end_of_pieces, 37), end_of_pieces):
        assert read_or_none(data[:end]) is None


def test_damaged_files_are_refused_or_read_as_sentencepiece_reads_them() -> None:
    rng, original, accepted = random.Random(3), sentencepiece_model(), 0
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = read_or_none(bytes(data))
        if found is None:
            continue
        accepted += 1
        oracle = sentencepiece.SentencePieceProcessor()
        oracle.LoadFromSerializedProto(bytes(data))
        shown = [(oracle.id_to_piece(i), oracle.get_score(i)) for i in range(len(found.pieces))]
        assert [(p.text, p.score) for p in found.pieces] == shown
    assert 0 < accepted < 400


def test_ties() -> None:
    """Scores that two pieces share, single characters and runs of spaces left out."""
    tied = [Piece("ab", -1.0), Piece("cd", -1.0), Piece("ef", -2.0)]
    spaces = [Piece("▁▁", -9.0), Piece("▁▁▁", -9.0)]
    single = [Piece("a", -3.0), Piece("b", -3.0)]
    assert read_model(model(UNK, *tied, *spaces, *single), "file").tied == ("ab", "cd")
    assert read_model(sentencepiece_model(), "file").tied == ()
    assert read_model(MISTRAL.read_bytes(), "file").tied == ()
