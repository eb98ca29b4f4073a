"""A model with another tokenizer, held against the same done naively in torch, in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.calls import call
from support.tiny import Tensors, Tiny, as_bits, finite
from support.tiny_files import read_hf, read_meta, unequal, write_hf, write_meta
from support.vocabularies import ranks, sentencepiece_model

import llamatools
from llamatools.tokenizer.merge import merge
from llamatools.tokenizer.opening import open_tokenizer
from llamatools.tokenizer.rows import match_rows
from llamatools.tokenizer.sentencepiece_model import Piece, read_model

SIZE = 420
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def with_sentencepiece(folder: Path) -> Path:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(SIZE))
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.model"
    path.write_bytes(ranks())
    return path


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    base = read_model(sentencepiece_model(SIZE), "small")
    more = (Piece("zz", 0.0), Piece("▁zzz", 0.0), Piece("qq", 0.0))
    path = tmp_path / "extended.model"
    path.write_bytes(merge(base, more).model.to_bytes())
    return path


def naive(old: torch.Tensor, sources: list[list[int]]) -> torch.Tensor:
    """The new matrix, a row at a time."""
    exact = torch.float64 if old.dtype == torch.float32 else torch.float32
    everything = old.double().mean(0).to(old.dtype)
    rows = []
    for s in sources:
        if not s:
            rows.append(everything)
        elif len(s) == 1:
            rows.append(old[s[0]])
        else:
            rows.append(old[torch.tensor(s)].to(exact).mean(0).to(old.dtype))
    return torch.stack(rows)


def expected(model: Tiny, old: Path, new: Path, size: int) -> Tensors:
    match = match_rows(
        open_tokenizer(old).tokenizer, open_tokenizer(new, version="llama-3").tokenizer, size
    )
    sources = [list(s) for s in match.sources]
    truth = dict(model.truth)
    for name in {EMBEDDING, HEAD} & truth.keys():
        truth[name] = naive(truth[name], sources)
    return truth


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_are_those_that_a_naive_swap_gives(
    dtype: torch.dtype, tied: bool, new: Path, tmp_path: Path
) -> None:
    model = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8, dtype=dtype, tied=tied))
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    done = call("tokenizer", "swap", folder, new, tmp_path / "out", "--pad-to-multiple-of", 64)
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    wanted = expected(model, folder, new, 704)
    assert found[EMBEDDING].shape[0] == 704
    assert not unequal(found, wanted)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == 704
    assert config["tie_word_embeddings"] is tied
    assert (config["bos_token_id"], config["eos_token_id"]) == (400, 401)
    assert (tmp_path / "out/tokenizer.json").exists()
    assert not (tmp_path / "out/tokenizer.model").exists()


def test_meta_files_get_the_same_rows_as_hf_files(new: Path, tmp_path: Path) -> None:
    model = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8))
    hf = with_sentencepiece(write_hf(model, tmp_path / "hf"))
    meta = with_sentencepiece(write_meta(model, tmp_path / "meta", 2))
    for source, out in ((hf, "hf-out"), (meta, "meta-out")):
        done = call("tokenizer", "swap", source, new, tmp_path / out)
        assert done.code == 0, done.err
    assert (tmp_path / "meta-out/tokenizer.model").read_bytes() == ranks()
    digests = [llamatools.fingerprint(tmp_path / o).digest for o in ("hf-out", "meta-out")]
    assert digests[0] == digests[1]
    ranks_of_out = read_meta(tmp_path / "meta-out")
    assert sum(r["output.weight"].shape[0] for r in ranks_of_out) == 656


def test_an_extended_vocabulary_keeps_old_rows_bit_for_bit(extended: Path, tmp_path: Path) -> None:
    """With random bits, so that any arithmetic on the way would show."""
    model = Tiny(style="llama-2", vocab=SIZE, kv_heads=8)
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    done = call("tokenizer", "swap", folder, extended, tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["vocabulary"]["extends"]
    found = read_hf(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        assert found[name].shape[0] == SIZE + 3
        assert torch.equal(as_bits(found[name][:SIZE]), as_bits(model.truth[name]))
    del found[EMBEDDING], found[HEAD]
    rest = {n: t for n, t in model.truth.items() if n not in (EMBEDDING, HEAD)}
    assert not unequal(found, rest)


def test_the_result_does_not_depend_on_workers_or_memory(new: Path, tmp_path: Path) -> None:
    model = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8))
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    prints = set()
    for i, limits in enumerate((["--jobs", "1"], ["--jobs", "4"], ["--max-memory", "400KB"])):
        done = call("tokenizer", "swap", folder, new, tmp_path / str(i), "--json", *limits)
        assert done.code == 0, done.err
        prints.add(done.json["fingerprint"])
    assert len(prints) == 1


def test_a_dry_run_says_where_rows_would_come_from(new: Path, tmp_path: Path) -> None:
    model = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8))
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    done = call("tokenizer", "swap", folder, new, tmp_path / "out", "--dry-run")
    assert done.code == 0, done.err
    assert "420 rows to 656" in done.out and "averaged" in done.out
    assert not (tmp_path / "out").exists()


def test_models_without_a_tokenizer_are_told_what_is_missing(new: Path, tmp_path: Path) -> None:
    folder = write_hf(finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8)), tmp_path / "in")
    done = call("tokenizer", "swap", folder, new, tmp_path / "out")
    assert done.code == 3 and "no tokenizer" in done.err
    other = with_sentencepiece(tmp_path)
    done = call("tokenizer", "swap", folder, new, tmp_path / "out", "--old-tokenizer",
                other / "tokenizer.model")  # fmt: skip
    assert done.code == 0, done.err


def test_a_tokenizer_larger_than_the_model_is_not_the_models(new: Path, tmp_path: Path) -> None:
    model = finite(Tiny(style="llama-2", vocab=SIZE - 20, kv_heads=8))
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    done = call("tokenizer", "swap", folder, new, tmp_path / "out")
    assert done.code == 3
    assert "420 tokens, the model 400 rows" in done.err


def test_a_swapped_model_loads_and_runs_in_transformers(new: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8, dtype=torch.float32))
    folder = with_sentencepiece(write_hf(model, tmp_path / "in"))
    assert call("tokenizer", "swap", folder, new, tmp_path / "out").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    ids = tokenizer("the tower", return_tensors="pt").input_ids
    assert loaded(ids).logits.shape[-1] == 656 == len(tokenizer)
