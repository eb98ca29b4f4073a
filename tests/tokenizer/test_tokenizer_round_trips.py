"""There and back: Meta's file -> tokenizer.json -> Meta's file.

A ranks file comes back byte for byte. Of a SentencePiece model the pieces come back, and whatever
sentencepiece does with them; of Meta's own model every byte does.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from libraries import (
    Json,
    changed,
    document,
    mismatches,
    model_bytes,
    opened,
    pieces,
    put,
    tokenizers_library,
    written,
)
from support.vocabularies import sentencepiece_model

from llamatools.errors import BadInput, NotRepresentable
from llamatools.tokenizer.combine import MODEL_NAME
from llamatools.tokenizer.corpus import adversarial, fuzz, tokens_as_texts
from llamatools.tokenizer.forms import to_hf, to_meta
from llamatools.tokenizer.json_write import NAME
from llamatools.tokenizer.opening import open_tokenizer
from llamatools.tokenizer.rebuild import LLAMA_2_SHA256
from llamatools.tokenizer.report import digest
from llamatools.tokenizer.sentencepiece_model import SentencePieceModel, read_model

RANKS = ("llama-3", "llama-4", "small-ranks")
PIECES = ("mistral", "small-sp", "small-sp-no-prefix")
SOME = ("mistral", "small-sp", "small-sp-no-prefix", "small-ranks")
VARIABLE = "LLAMATOOLS_LLAMA2_TOKENIZER"


@pytest.mark.parametrize("family", RANKS)
def test_ranks_come_back_byte_for_byte(family: str, tmp_path: Path) -> None:
    files = open_tokenizer(put(tmp_path / "hf", json=written(family)[NAME]))
    done = to_meta(files)
    assert done.documents == {MODEL_NAME: model_bytes(family)}
    assert (done.losses, files.deviations, files.conflicts) == ((), (), ())
    before = opened(family).tokenizer
    assert files.tokenizer == before
    assert digest(files.tokenizer) == digest(before)


@pytest.mark.parametrize("family", PIECES)
def test_pieces_come_back(family: str, tmp_path: Path) -> None:
    files = open_tokenizer(put(tmp_path / "hf", json=written(family)[NAME]))
    done = to_meta(files)
    assert (done.losses, files.deviations, files.conflicts) == ((), (), ())
    back = read_model(done.documents[MODEL_NAME], "back")
    before = opened(family).tokenizer
    assert isinstance(before.base, SentencePieceModel)
    assert [(p.text, p.kind) for p in back.pieces] == [(p.text, p.kind) for p in before.base.pieces]
    assert back.roles == before.base.roles
    assert back.dummy_prefix == before.base.dummy_prefix
    assert digest(files.tokenizer) == digest(before)


@pytest.mark.parametrize("family", PIECES)
def test_pieces_that_came_back_split_text_as_before(family: str, tmp_path: Path) -> None:
    files = open_tokenizer(put(tmp_path / "hf", json=written(family)[NAME]))
    data = to_meta(files).documents[MODEL_NAME]
    tokenizer = opened(family).tokenizer
    texts = [*adversarial(), *tokens_as_texts(tokenizer), *fuzz(tokenizer, 2_000, seed=30)]
    assert mismatches(pieces(model_bytes(family)), pieces(data), texts) == []


@pytest.mark.parametrize("family", SOME)
def test_the_second_time_nothing_changes(family: str, tmp_path: Path) -> None:
    """tokenizer.json -> Meta's file -> tokenizer.json."""
    there = to_meta(open_tokenizer(put(tmp_path / "a", json=written(family)[NAME])))
    back = to_hf(open_tokenizer(put(tmp_path / "b", model=there.documents[MODEL_NAME])))
    assert back.documents[NAME] == written(family)[NAME]
    assert back.documents.keys() == written(family).keys()


@pytest.mark.parametrize("family", SOME)
def test_of_both_files_together_the_original_is_kept(family: str, tmp_path: Path) -> None:
    files = open_tokenizer(
        put(tmp_path / "both", model=model_bytes(family), json=written(family)[NAME])
    )
    assert (files.conflicts, files.deviations) == ((), ())
    assert to_meta(files).documents[MODEL_NAME] == model_bytes(family)
    assert to_hf(files).documents[NAME] == written(family)[NAME]


def test_meta_s_own_model_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """Llama 2's file may not be passed on; who has it names it in an environment variable."""
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"{VARIABLE} is not set: the path of Llama 2's tokenizer.model")
    data = Path(path).read_bytes()
    assert sha256(data).hexdigest() == LLAMA_2_SHA256
    there = to_hf(open_tokenizer(put(tmp_path / "meta", model=data)))
    assert there.losses == ()
    back = open_tokenizer(put(tmp_path / "hf", json=there.documents[NAME]))
    assert to_meta(back).documents[MODEL_NAME] == data
    tokenizer = back.tokenizer
    texts = [*adversarial(), *tokens_as_texts(tokenizer), *fuzz(tokenizer, 2_000, seed=31)]
    assert mismatches(pieces(data), tokenizers_library(there.documents[NAME]), texts) == []
    legacy = official_style(there.documents[NAME])
    older = open_tokenizer(put(tmp_path / "older", json=legacy))
    assert older.deviations == ()
    assert to_meta(older).documents[MODEL_NAME] == data


def official_style(data: bytes) -> Json:
    """As the hub's file of Llama 2 is written: merges in one string, tokens `normalized`."""
    found: Json = json.loads(data)
    found["model"]["merges"] = [" ".join(m) for m in found["model"]["merges"]]
    found["added_tokens"] = [a | {"normalized": True} for a in found["added_tokens"]]
    del found["model"]["ignore_merges"]
    return found


@pytest.mark.parametrize("family", ["mistral", "small-sp", "small-ranks"])
def test_the_hub_s_older_style_is_the_same_tokenizer(family: str, tmp_path: Path) -> None:
    legacy = official_style(written(family)[NAME])
    if family == "small-ranks":
        legacy["model"]["ignore_merges"] = True
    files = open_tokenizer(put(tmp_path / "hf", json=legacy))
    assert files.deviations == ()
    assert files.tokenizer.specials == opened(family).tokenizer.specials
    expected = to_meta(open_tokenizer(put(tmp_path / "new", json=written(family)[NAME])))
    assert to_meta(files).documents == expected.documents


def test_added_tokens_become_pieces_and_come_back(tmp_path: Path) -> None:
    """As Vicuna was published: tokenizer.model, and a token beside it in added_tokens.json."""
    n = len(read_model(sentencepiece_model(), "small").pieces)
    files = open_tokenizer(put(tmp_path / "v", model=sentencepiece_model(), added={"[PAD]": n}))
    assert files.tokenizer.size == n + 1
    assert files.tokenizer.specials[n] == "[PAD]"
    there = to_hf(files)
    hf = open_tokenizer(put(tmp_path / "hf", json=there.documents[NAME]))
    meta = to_meta(hf)
    assert len(meta.notes) == 1 and "[PAD]" in meta.notes[0]
    back = open_tokenizer(put(tmp_path / "back", model=meta.documents[MODEL_NAME]))
    assert back.tokenizer.specials == hf.tokenizer.specials
    assert digest(back.tokenizer) == digest(hf.tokenizer) == digest(files.tokenizer)
    texts = [*adversarial(), *fuzz(files.tokenizer, 300, seed=1)]
    plain = [t for t in texts if "[PAD]" not in t]
    data = meta.documents[MODEL_NAME]
    assert mismatches(pieces(sentencepiece_model()), pieces(data), plain) == []


# What a ranks file cannot hold is refused, never bent.


def test_tokens_after_the_special_ones_are_refused(tmp_path: Path) -> None:
    size = opened("small-ranks").tokenizer.size
    vocab = {**document("small-ranks")["model"]["vocab"], "Ġzzz": size}
    put(tmp_path / "hf", json=changed("small-ranks", model={"vocab": vocab}))
    with pytest.raises(NotRepresentable, match="1 token after the special tokens"):
        open_tokenizer(tmp_path / "hf")


def test_merges_out_of_order_are_refused(tmp_path: Path) -> None:
    merges = document("small-ranks")["model"]["merges"]
    put(tmp_path / "hf", json=changed("small-ranks", model={"merges": merges[::-1]}))
    with pytest.raises(NotRepresentable, match="not in the order of ids"):
        open_tokenizer(tmp_path / "hf")


def test_tokens_of_no_bytes_are_refused(tmp_path: Path) -> None:
    vocab = document("small-ranks")["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    other = {("日本" if t == last else t): i for t, i in vocab.items()}
    merges = [m for m in document("small-ranks")["model"]["merges"] if "".join(m) != last]
    put(tmp_path / "hf", json=changed("small-ranks", model={"vocab": other, "merges": merges}))
    with pytest.raises(NotRepresentable, match=r"byte-level alphabet: U\+65E5"):
        open_tokenizer(tmp_path / "hf")


def test_gaps_in_added_tokens_have_no_sentencepiece_model(tmp_path: Path) -> None:
    n = len(read_model(sentencepiece_model(), "small").pieces)
    folder = put(tmp_path / "v", model=sentencepiece_model(), added={"[X]": n + 3})
    with pytest.raises(BadInput, match="do not follow the last"):
        open_tokenizer(folder)


def test_a_vocabulary_that_is_larger_than_the_model_beside_it_is_noticed(tmp_path: Path) -> None:
    """A piece or token without merges is in no list of merges; it is matched all the same."""
    document_of_pieces = document("small-sp")
    n = len(document_of_pieces["model"]["vocab"])
    folder = put(
        tmp_path / "sp",
        model=model_bytes("small-sp"),
        json=changed("small-sp", model={"vocab": document_of_pieces["model"]["vocab"] | {"ж": n}}),
    )
    files = open_tokenizer(folder)
    assert files.conflicts or files.deviations
    assert files.tokenizer.size == n + 1


def test_a_token_that_only_the_json_has_is_noticed_beside_ranks(tmp_path: Path) -> None:
    size = opened("small-ranks").tokenizer.size
    vocab = {**document("small-ranks")["model"]["vocab"]}
    vocab |= {a["content"]: a["id"] for a in document("small-ranks")["added_tokens"]}
    vocab["ĠquickĠbrown"] = size
    folder = put(
        tmp_path / "both",
        model=model_bytes("small-ranks"),
        json=changed("small-ranks", model={"vocab": vocab}),
    )
    try:
        files = open_tokenizer(folder)
    except NotRepresentable:
        return
    assert files.conflicts or files.deviations
