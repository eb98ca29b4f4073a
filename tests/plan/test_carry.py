"""The tokenizer goes along with the weights: in which form, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta
from support.vocabularies import ranks, sentencepiece_model

import llamatools
from llamatools.errors import BadInput, CheckFailed, NotRepresentable
from llamatools.plan.build import Options
from llamatools.tokenizer import json_write

SP_SIZE, RANKS_SIZE = 420, 400


def convert(source: Path, out: Path, **options: object) -> dict[str, object]:
    return llamatools.convert(source, out, Options(**options))  # type: ignore[arg-type]


def load(path: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(path.read_bytes())
    return loaded


@pytest.fixture
def llama_2(tmp_path: Path) -> Path:
    folder = write_meta(Tiny(style="llama-2", vocab=SP_SIZE, kv_heads=8), tmp_path / "two", 2)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(SP_SIZE))
    return folder


@pytest.fixture
def llama_3(tmp_path: Path) -> Path:
    """With a name that says nothing of chat."""
    folder = write_meta(Tiny(style="llama-3.1", vocab=RANKS_SIZE + 256), tmp_path / "three", 2)
    (folder / "tokenizer.model").write_bytes(ranks(RANKS_SIZE))
    return folder


def test_sentencepiece_comes_out_in_both_forms_and_goes_back(llama_2: Path, tmp_path: Path) -> None:
    manifest = convert(llama_2, tmp_path / "hf", to="hf")
    names = {p.name for p in (tmp_path / "hf").iterdir()}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert names >= {"tokenizer.model", "generation_config.json"}
    told = manifest["tokenizer"]
    assert isinstance(told, dict)
    assert told["kind"] == "sentencepiece" and told["exact"] and told["mismatches"] == 0
    assert told["texts_compared"] > 2000
    convert(tmp_path / "hf", tmp_path / "back", to="meta")
    original = (llama_2 / "tokenizer.model").read_bytes()
    assert (tmp_path / "hf/tokenizer.model").read_bytes() == original
    assert (tmp_path / "back/tokenizer.model").read_bytes() == original


def test_ranks_become_tokenizer_json_and_come_back_byte_for_byte(
    llama_3: Path, tmp_path: Path
) -> None:
    convert(llama_3, tmp_path / "hf", to="hf")
    assert not (tmp_path / "hf/tokenizer.model").exists()
    convert(tmp_path / "hf", tmp_path / "back", to="meta")
    original = (llama_3 / "tokenizer.model").read_bytes()
    assert (tmp_path / "back/tokenizer.model").read_bytes() == original


@pytest.mark.parametrize(
    ("style", "named"),
    [("llama-3", "<|reserved_special_token_2|>"), ("llama-3.1", "<|finetune_right_pad_id|>")],
)
def test_special_tokens_are_those_of_the_models_version(
    style: str, named: str, tmp_path: Path
) -> None:
    folder = write_meta(Tiny(style=style, vocab=RANKS_SIZE + 256), tmp_path / "in", 1)
    (folder / "tokenizer.model").write_bytes(ranks(RANKS_SIZE))
    convert(folder, tmp_path / "hf", to="hf")
    added = load(tmp_path / "hf/tokenizer.json")["added_tokens"]
    assert isinstance(added, list)
    assert added[4]["id"] == RANKS_SIZE + 4 and added[4]["content"] == named


@pytest.mark.parametrize("instruct", [True, False, None])
def test_instruct_decides_the_template_and_what_ends_an_answer(
    llama_3: Path, tmp_path: Path, instruct: bool | None
) -> None:
    convert(llama_3, tmp_path / "hf", to="hf", instruct=instruct)
    config = load(tmp_path / "hf/tokenizer_config.json")
    assert ("chat_template" in config) == bool(instruct)
    assert config["eos_token"] == ("<|eot_id|>" if instruct else "<|end_of_text|>")
    ids = load(tmp_path / "hf/generation_config.json")
    assert ids["eos_token_id"] == RANKS_SIZE + (9 if instruct else 1)
    assert ids["bos_token_id"] == load(tmp_path / "hf/config.json")["bos_token_id"] == RANKS_SIZE


def test_a_folder_named_chat_is_taken_for_one(llama_2: Path, tmp_path: Path) -> None:
    chat = llama_2.rename(tmp_path / "Llama-2-tiny-chat")
    convert(chat, tmp_path / "hf", to="hf")
    assert "[INST]" in str(load(tmp_path / "hf/tokenizer_config.json")["chat_template"])
    convert(chat, tmp_path / "base", to="hf", instruct=False)
    assert "chat_template" not in load(tmp_path / "base/tokenizer_config.json")


def test_configs_of_the_users_own_stay(llama_2: Path, tmp_path: Path) -> None:
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "mine", "mine": 1}
    (llama_2 / "tokenizer_config.json").write_text(json.dumps(own))
    convert(llama_2, tmp_path / "hf", to="hf", instruct=True)
    assert load(tmp_path / "hf/tokenizer_config.json") == own


@pytest.mark.parametrize("to", ["meta", "safetensors"])
def test_between_equal_layouts_files_go_along_unread(
    llama_2: Path, tmp_path: Path, to: str
) -> None:
    (llama_2 / "tokenizer.model").write_bytes(b"anything")
    manifest = convert(llama_2, tmp_path / "out", to=to, strict=True)
    assert (tmp_path / "out/tokenizer.model").read_bytes() == b"anything"
    assert manifest["tokenizer"] is None


def test_none_leaves_the_tokenizer_out(llama_2: Path, tmp_path: Path) -> None:
    convert(llama_2, tmp_path / "out", to="hf", tokenizer="none")
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith("tokenizer")]


def test_a_path_takes_the_place_of_what_lies_there(
    llama_2: Path, llama_3: Path, tmp_path: Path
) -> None:
    (llama_3 / "tokenizer.model").unlink()
    other = tmp_path / "other.model"
    other.write_bytes(ranks(RANKS_SIZE))
    manifest = convert(llama_3, tmp_path / "out", to="meta", tokenizer=str(other))
    assert (tmp_path / "out/tokenizer.model").read_bytes() == ranks(RANKS_SIZE)
    assert manifest["options"]["tokenizer"] == "other.model"  # type: ignore[index]
    with pytest.raises(BadInput):
        convert(llama_3, tmp_path / "out2", to="hf", tokenizer=str(tmp_path / "missing"))


def test_a_file_that_is_no_tokenizer_travels_and_is_told_of(llama_2: Path, tmp_path: Path) -> None:
    (llama_2 / "tokenizer.model").write_bytes(b"junk")
    manifest = convert(llama_2, tmp_path / "out", to="hf")
    assert (tmp_path / "out/tokenizer.model").read_bytes() == b"junk"
    assert not (tmp_path / "out/tokenizer.json").exists()
    assert "neither a SentencePiece model nor a ranks file" in str(manifest["conflicts"])
    with pytest.raises(BadInput):
        convert(llama_2, tmp_path / "strict", to="hf", strict=True)
    assert not (tmp_path / "strict").exists()


def test_more_tokens_than_rows_is_a_conflict(tmp_path: Path) -> None:
    folder = write_meta(Tiny(style="llama-2", vocab=SP_SIZE - 1, kv_heads=8), tmp_path / "in", 1)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(SP_SIZE))
    manifest = convert(folder, tmp_path / "out", to="hf")
    assert "420 tokens, but the model has 419 rows" in str(manifest["conflicts"])
    with pytest.raises(NotRepresentable, match="419 rows"):
        convert(folder, tmp_path / "strict", to="hf", strict=True)


def test_a_conversion_that_came_out_wrong_is_not_published(
    llama_3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the check: one merge per token looks right on ordinary text."""
    complete = json_write.rank_merges
    monkeypatch.setattr(json_write, "rank_merges", lambda r: complete(r)[: len(complete(r)) // 2])
    with pytest.raises(CheckFailed, match="differs from its source"):
        convert(llama_3, tmp_path / "out", to="hf")
    assert not (tmp_path / "out").exists()
    convert(llama_3, tmp_path / "unchecked", to="hf", verify=False)


def test_a_json_that_disagrees_with_the_model_file_is_believed_in_hf(
    llama_3: Path, tmp_path: Path
) -> None:
    convert(llama_3, tmp_path / "hf", to="hf")
    (tmp_path / "hf/tokenizer.model").write_bytes(ranks(RANKS_SIZE - 7))
    manifest = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    assert (tmp_path / "meta/tokenizer.model").read_bytes() == ranks(RANKS_SIZE)
    assert "which is believed" in str(manifest["conflicts"])


def test_renamed_special_tokens_are_told_of_and_strictly_an_error(
    llama_3: Path, tmp_path: Path
) -> None:
    convert(llama_3, tmp_path / "hf", to="hf")
    path = tmp_path / "hf/tokenizer.json"
    path.write_text(path.read_text().replace("<|reserved_special_token_7|>", "<|im_start|>"))
    manifest = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    assert "<|im_start|>" in str(manifest["notes"])
    assert manifest["tokenizer"]["exact"] is False  # type: ignore[index]
    with pytest.raises(NotRepresentable, match="im_start"):
        convert(tmp_path / "hf", tmp_path / "strict", to="meta", strict=True)


def test_an_added_pad_token_becomes_a_piece(tmp_path: Path) -> None:
    """As in Alpaca: one more row than tokenizer.model has pieces."""
    folder = write_hf(Tiny(style="llama-2", vocab=SP_SIZE + 1, kv_heads=8), tmp_path / "hf")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(SP_SIZE))
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": SP_SIZE}))
    manifest = convert(folder, tmp_path / "meta", to="meta", strict=True)
    assert "[PAD]" in str(manifest["notes"])
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto((tmp_path / "meta/tokenizer.model").read_bytes())
    assert model.get_piece_size() == SP_SIZE + 1
    assert model.is_control(SP_SIZE) and model.id_to_piece(SP_SIZE) == "[PAD]"
