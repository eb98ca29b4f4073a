"""Which old rows a new tokenizer's tokens get, told by hand for vocabularies small enough."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from support.vocabularies import ranks, sentencepiece_model

from llamatools.tokenizer.merge import merge
from llamatools.tokenizer.ranks import Ranks, read_ranks
from llamatools.tokenizer.rows import match_rows
from llamatools.tokenizer.sentencepiece_model import Kind, Piece, Roles, byte_piece, read_model
from llamatools.tokenizer.tokenizer import Added, Tokenizer, from_model, from_ranks
from llamatools.tokenizer.versions import VERSIONS

BYTES = tuple(bytes([b]) for b in range(256))


def of_ranks(*tokens: bytes, added: tuple[str, ...] = (), **roles: int) -> Tokenizer:
    base = Ranks((*BYTES, *tokens))
    first = len(base.tokens)
    return Tokenizer(base, tuple(Added(first + i, t) for i, t in enumerate(added)), Roles(**roles))


def test_a_token_of_both_keeps_its_row_wherever_it_stands() -> None:
    old = of_ranks(b"ab", b"cd")
    new = of_ranks(b"cd", b"ab")
    match = match_rows(old, new, new.size)
    assert match.sources[256:] == ((257,), (256,))
    assert match.sources[:256] == tuple((i,) for i in range(256))
    assert match.origins == {"copied": 258, "special": 0, "averaged": 0, "mean": 0, "padding": 0}
    assert not match.extends


def test_a_new_token_is_averaged_of_what_it_is_made_of() -> None:
    old = of_ranks(b"ab")
    match = match_rows(old, of_ranks(b"abc"), 257)
    assert match.sources[256] == (256, ord("c"))
    assert match.origins["averaged"] == 1


def test_a_new_token_that_is_not_text_is_split_by_its_bytes() -> None:
    old = of_ranks(b"\xe4\xbd")
    match = match_rows(old, of_ranks(b"\xe4\xbd", b"x\xe4\xbd"), 258)
    assert match.sources[257] == (ord("x"), 256)


def test_padding_and_specials_without_counterpart_get_the_mean_of_all() -> None:
    match = match_rows(of_ranks(b"ab"), of_ranks(b"ab", added=("<new>",)), 320)
    assert match.sources[257] == ()
    assert set(match.sources[258:]) == {()}
    assert (match.origins["mean"], match.origins["padding"]) == (1, 62)


def test_specials_go_by_role_before_they_go_by_name() -> None:
    old = of_ranks(added=("<end>", "<begin>", "<keep>"), bos=257, eos=256)
    new = of_ranks(added=("<begin>", "<end>", "<keep>"), bos=257, eos=256)
    match = match_rows(old, new, new.size)
    # The new "<end>" begins text: its row is that of what began text, whatever it was called.
    assert match.sources[256:] == ((256,), (257,), (258,))
    unnamed = replace(new, roles=Roles())
    assert match_rows(old, unnamed, new.size).sources[256:] == ((257,), (256,), (258,))


def test_the_text_of_a_special_token_is_not_a_token_of_text() -> None:
    old = of_ranks(b"ab", added=("<s>",))
    new = of_ranks(b"ab", b"<s>")
    assert match_rows(old, new, new.size).sources[257] == tuple(b"<s>")


def test_an_ordinary_piece_outranks_the_piece_of_a_byte() -> None:
    model = read_model(sentencepiece_model(), "small")
    a = model.ids["a"]
    assert model.pieces[model.ids[byte_piece(ord("a"))]].kind is Kind.BYTE
    match = match_rows(from_model(model), of_ranks(), 256)
    assert match.sources[ord("a")] == (a,)
    assert match.sources[0] == (model.ids[byte_piece(0)],)


def test_spaces_are_spaces_in_either_kind() -> None:
    model = read_model(sentencepiece_model(), "small")
    the = model.ids["▁the"]
    match = match_rows(from_model(model), of_ranks(b" the"), 257)
    assert match.sources[256] == (the,)


def test_averages_leave_the_dummy_prefix_out() -> None:
    model = read_model(sentencepiece_model(), "small")
    match = match_rows(from_model(model), of_ranks(b"xq"), 257)
    assert match.sources[256] == (model.ids["x"], model.ids["q"])


@pytest.mark.parametrize("kind", ["sentencepiece", "ranks"])
def test_an_extended_vocabulary_keeps_every_row(kind: str) -> None:
    if kind == "sentencepiece":
        base = read_model(sentencepiece_model(), "small")
        pieces = (Piece("zz", 0.0), Piece("▁zzz", 0.0), base.pieces[300])
        old, new = from_model(base), from_model(merge(base, pieces).model)
    else:
        old = Tokenizer(read_ranks(ranks(), "small"))
        more = ranks() + b64encode(b"zz") + b" %d\n" % old.size
        new = Tokenizer(read_ranks(more, "more"))
    match = match_rows(old, new, new.size)
    assert match.extends
    assert match.sources[: old.size] == tuple((i,) for i in range(old.size))
    assert all(len(s) > 1 for s in match.sources[old.size :])


def test_versions_of_one_file_differ_in_special_tokens_alone() -> None:
    base = read_ranks(ranks(), "small")
    old, new = (from_ranks(base, VERSIONS[v]) for v in ("llama-3", "llama-3.1"))
    match = match_rows(old, new, new.size)
    first = len(base.tokens)
    assert match.sources[:first] == tuple((i,) for i in range(first))
    names = {a.text: a.id for a in old.added}
    for added in new.added:
        expected = (names[added.text],) if added.text in names else ()
        assert match.sources[added.id] == expected, added
