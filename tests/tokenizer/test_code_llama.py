"""Code Llama's vocabulary: ordinary pieces that mark the parts of a text to fill in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.vocabularies import sentencepiece_model

from llamatools.tokenizer import wire
from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.compare import compare
from llamatools.tokenizer.corpus import adversarial, fuzz
from llamatools.tokenizer.encoders import hf_encoder, meta_encoder
from llamatools.tokenizer.forms import to_hf
from llamatools.tokenizer.opening import open_tokenizer
from llamatools.tokenizer.sentencepiece_model import Piece, read_model

INFILL = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
BEGINNINGS = [t[:n] for n in range(2, 6) for t in INFILL]
SIZE = 420


@pytest.fixture
def files(tmp_path: Path) -> TokenizerFiles:
    """A model extended as Code Llama's is: pieces that merge up to the infill tokens."""
    small = read_model(sentencepiece_model(SIZE), "small")
    worst = min(p.score for p in small.pieces)
    more = [*"<>PRESUFMIDOT", *BEGINNINGS, *INFILL]
    new = list(dict.fromkeys(t for t in more if t not in small.ids))
    pieces = [Piece(t, worst - 1 - i) for i, t in enumerate(new)]
    appended = b"".join(wire.field(1, p.encoded()) for p in pieces)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(small.encoded_pieces + appended + small.rest)
    return open_tokenizer(path)


def test_infill_tokens_are_special_and_keep_their_ids(files: TokenizerFiles) -> None:
    ids = {text: i for i, text in files.tokenizer.specials.items()}
    assert set(INFILL) <= ids.keys()
    document = json.loads(to_hf(files).documents["tokenizer.json"])
    added = {a["content"]: a for a in document["added_tokens"]}
    assert all(added[t]["id"] == ids[t] and added[t]["special"] for t in INFILL)
    config = json.loads(to_hf(files).documents["tokenizer_config.json"])
    assert [config[f"{k}_token"] for k in ("prefix", "suffix", "middle", "eot")] == list(INFILL)


def test_text_that_spells_them_is_encoded_as_sentencepiece_does(files: TokenizerFiles) -> None:
    a, b = meta_encoder(files.tokenizer), hf_encoder(files.tokenizer)
    texts = ["<PRE>", " <PRE> def f():", "x <SUF> y <MID>", "<EOT><EOT>", "▁<PRE>", "a<PRE>"]
    prefix = files.tokenizer.base.ids["▁<PRE>"]  # type: ignore[union-attr]
    assert a.encode(texts)[0] == [prefix]
    groups = [
        ("these", texts),
        ("built-in", adversarial()),
        ("fuzz", fuzz(files.tokenizer, 500, 1)),
    ]
    result = compare(a, b, groups)
    assert result.equal, result.first


def test_the_way_back_gives_the_same_pieces(files: TokenizerFiles, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(to_hf(files).documents["tokenizer.json"])
    (tmp_path / "tokenizer.model").unlink()
    back = open_tokenizer(tmp_path)
    assert back.deviations == ()
    assert back.tokenizer.token_bytes == files.tokenizer.token_bytes
    assert back.tokenizer.specials == files.tokenizer.specials
    assert [p.kind for p in back.tokenizer.base.pieces] == [  # type: ignore[union-attr]
        p.kind
        for p in files.tokenizer.base.pieces  # type: ignore[union-attr]
    ]
