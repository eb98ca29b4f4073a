"""Ranks files: byte for byte there and back, and everything that is broken named."""

from __future__ import annotations

import random
from base64 import b64encode
from pathlib import Path

import pytest
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st
from libraries import meta_code
from support.vocabularies import LLAMA_3, LLAMA_4, ranks

from llamatools.errors import BadInput, LlamatoolsError
from llamatools.tokenizer import ranks as module
from llamatools.tokenizer.combine import read_base
from llamatools.tokenizer.ranks import Ranks, looks_like_ranks, read_ranks

BYTES = tuple(bytes([b]) for b in range(256))


def line(token: bytes, rank: object) -> bytes:
    return b"%b %b\n" % (b64encode(token), str(rank).encode())


def table(*more: bytes) -> bytes:
    """Every single byte, and lines after them."""
    return b"".join(line(t, i) for i, t in enumerate(BYTES)) + b"".join(more)


@pytest.mark.parametrize("path", [LLAMA_3, LLAMA_4, None], ids=["llama-3", "llama-4", "small"])
def test_a_real_file_comes_back_byte_for_byte(path: Path | None, tmp_path: Path) -> None:
    data = path.read_bytes() if path else ranks()
    (tmp_path / "file").write_bytes(data)
    found = read_ranks(data, "file")
    assert found.to_bytes() == data
    assert looks_like_ranks(data)
    assert found.rank == tiktoken.load.load_tiktoken_bpe(str(tmp_path / "file"))


def test_numbers_of_tokens() -> None:
    assert len(read_ranks(LLAMA_3.read_bytes(), "3").tokens) == 128_000
    assert len(read_ranks(LLAMA_4.read_bytes(), "4").tokens) == 200_000


def test_lines_may_end_in_other_ways_and_stand_in_any_order() -> None:
    data = ranks()
    expected = read_ranks(data, "file")
    assert read_ranks(data.replace(b"\n", b"\r\n"), "file") == expected
    assert read_ranks(b"\n" + data.rstrip(), "file") == expected
    assert read_ranks(b"".join(reversed(data.splitlines(keepends=True))), "file") == expected


GOOD = line(b"ab", 256)
BROKEN = {
    "no base64": (b"a$b= 256\n", "line 257: broken base64"),
    "base64 without padding": (b"YWI 256\n", "line 257: broken base64"),
    "base64 with bits that mean nothing": (b"YWJ= 256\n", "line 257: broken base64"),
    "url-safe base64": (b"-_-_ 256\n", "line 257: broken base64"),
    "empty token": (b" 256\n", "expected a token and a rank"),
    "three words": (b"YWI= 256 7\n", "expected a token and a rank"),
    "no rank": (b"YWI=\n", "expected a token and a rank"),
    "negative rank": (b"YWI= -1\n", "a rank that is no number"),
    "rank with a point": (b"YWI= 256.0\n", "a rank that is no number"),
    "rank in other digits": ("YWI= ٢٥٦\n".encode(), "a rank that is no number"),
    "huge rank": (b"YWI= " + b"9" * 5000 + b"\n", "a rank that is no number"),
    "rank far away": (line(b"ab", 999_999_999), "ranks are missing: 256"),
    "gap": (line(b"ab", 257), "ranks are missing: 256"),
    "rank twice": (GOOD + line(b"cd", 256), "line 258: rank 256 stands there twice"),
    "token twice": (GOOD + line(b"ab", 257), "tokens that stand there twice: b'ab'"),
    "token of 5 MB": (line(b"a" * 5_000_000, 256), "line 257: "),
    "bytes": (b"\x00\xff\x1b[31m\n", "expected a token and a rank"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lines(name: str) -> None:
    more, said = BROKEN[name]
    with pytest.raises(BadInput, match="(?s)" + said) as e:
        read_ranks(table(more), "file")
    assert all(p.startswith("file: ") and p.isprintable() for p in e.value.problems)
    assert max(map(len, e.value.problems)) < 300
    assert read_ranks(table(GOOD), "file").tokens[256] == b"ab"  # the control


def test_missing_single_bytes() -> None:
    data = b"".join(line(t, i) for i, t in enumerate(t for t in BYTES if t not in (b"a", b"\xff")))
    with pytest.raises(BadInput, match="single bytes are missing: 97, 255"):
        read_ranks(data, "file")


def test_many_problems_are_counted() -> None:
    with pytest.raises(BadInput, match="and 9,990 more problems") as e:
        read_ranks(b"?\n" * 10_000, "file")
    assert len(e.value.problems) == 11


def test_too_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 300)
    with pytest.raises(BadInput, match="more than 300 lines"):
        read_ranks(ranks(), "file")


POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55
size 2183982
"""
NOT_TOKENIZERS = {
    "empty": b"",
    "newline": b"\n",
    "pointer of Git LFS": POINTER,
    "HTML": b"<!DOCTYPE html>\n<html><head><title>401</title></head></html>\n",
    "HTML after a line": b"\n<html></html>\n",
    "words": b"Entry not found",
    "zeros": bytes(4096),
    "gzip": b"\x1f\x8b\x08" + bytes(50),
}


@pytest.mark.parametrize("name", NOT_TOKENIZERS)
def test_other_files(name: str) -> None:
    with pytest.raises(BadInput) as e:
        read_base(NOT_TOKENIZERS[name], "file")
    assert str(e.value).startswith("file: ")


@pytest.mark.parametrize("name", ["pointer of Git LFS", "HTML"])
def test_what_is_fetched_in_place_of_a_file_is_named(name: str) -> None:
    with pytest.raises(BadInput, match="neither a SentencePiece model nor a ranks file") as e:
        read_base(NOT_TOKENIZERS[name], "file")
    assert e.value.hint is not None and "Git LFS" in e.value.hint


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    looks_like_ranks(data)
    for read in (read_ranks, read_base):
        with pytest.raises(LlamatoolsError) as e:
            read(data, "file")
        assert isinstance(e.value, BadInput)


@given(st.lists(st.binary(min_size=1, max_size=6), unique=True, max_size=20))
def test_any_tokens_come_back(tokens: list[bytes]) -> None:
    more = tuple(t for t in tokens if len(t) > 1)
    made = Ranks((*BYTES, *more))
    assert read_ranks(made.to_bytes(), "file") == made


def test_damaged_files_are_refused_or_still_hold_every_byte() -> None:
    rng, original, accepted = random.Random(2), ranks(), 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 2))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = read_ranks(bytes(data), "file")
        except BadInput:
            continue
        accepted += 1
        assert set(BYTES) <= set(found.tokens)
        assert len(found.rank) == len(found.tokens) == 400
    assert 0 < accepted < 300


@given(st.binary(min_size=1, max_size=40))
def test_bytes_are_merged_as_tiktoken_merges_them(data: bytes) -> None:
    """Also bytes that are no text, which only the swap of vocabularies needs."""
    small = read_ranks(ranks(), "small")
    oracle = tiktoken.Encoding(
        "one piece", pat_str=r"(?s).+", mergeable_ranks=small.rank, special_tokens={}
    )
    # A piece that is a token is that token at once in tiktoken; merging may end elsewhere.
    expected = oracle._encode_single_piece(data)
    if data not in small.rank:
        assert small.encode_piece(data) == expected


def test_merging_reaches_what_meta_s_code_says() -> None:
    model = meta_code("llama-3").model
    full = read_ranks(LLAMA_3.read_bytes(), "3")
    for word in (b" tokenization", b" Donaudampfschiff", "你好世界".encode(), b"\xff\xfe\x00"):
        if word not in full.rank:
            assert full.encode_piece(word) == model._encode_single_piece(word)
