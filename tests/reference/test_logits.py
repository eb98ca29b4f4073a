"""Meta -> HF: transformers, on what `convert` wrote, gives the logits that Meta's code gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from goldens import BY_NAME, FILES, GOLDENS, TOLERANCE, AsHf, Golden, Measured
from support.tiny_files import read_hf
from transformers_logits import folder_logits, load, logits

import llamatools


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_converted_model_gives_golden_logits(
    golden: Golden, files: int, as_hf: AsHf, measured: Measured
) -> None:
    error = golden.error(folder_logits(as_hf(golden.folder(files)), golden.prompt))
    measured(golden, error)
    assert error <= TOLERANCE


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_every_number_of_files_gives_the_same_hf_files(golden: Golden, as_hf: AsHf) -> None:
    folders = [as_hf(golden.folder(files)) for files in FILES]
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        llamatools.Options(to="hf", weights="bin"),
        llamatools.Options(to="hf", max_shard_size=20_000),
        llamatools.Options(to="hf", weights="bin", max_shard_size=20_000),
    ],
    ids=["one-bin", "several-safetensors", "several-bin"],
)
def test_other_weight_files_load_and_give_golden_logits(
    golden: Golden, options: llamatools.Options, as_hf: AsHf, tmp_path: Path
) -> None:
    llamatools.convert(golden.folder(2), tmp_path / "hf", options)
    ending = "bin" if options.weights == "bin" else "safetensors"
    count = len(list((tmp_path / "hf").glob(f"*.{ending}")))
    assert (count > 3) if options.max_shard_size == 20_000 else (count == 1)
    assert (tmp_path / "hf" / f"{_STEMS[ending]}.index.json").exists() == (count > 1)
    assert golden.error(folder_logits(tmp_path / "hf", golden.prompt)) <= TOLERANCE


_STEMS = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_casts_that_lose_nothing_give_golden_logits(
    golden: Golden, dtype: str, tmp_path: Path
) -> None:
    """Golden weights are exact in all three types."""
    llamatools.convert(golden.folder(4), tmp_path / "hf", llamatools.Options("hf", dtype=dtype))
    stored = {t.dtype for t in read_hf(tmp_path / "hf").values()}
    assert stored == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}
    assert golden.error(folder_logits(tmp_path / "hf", golden.prompt)) <= TOLERANCE


def test_tied_model_stores_no_head_and_is_tied_when_loaded(as_hf: AsHf) -> None:
    folder = as_hf(BY_NAME["llama32-tied"].folder(2))
    assert "lm_head.weight" not in read_hf(folder)
    model = load(folder)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() == embedding.data_ptr()


@pytest.mark.parametrize("golden", [g for g in GOLDENS if not g.facts["tied"]], ids=str)
def test_untied_model_stores_its_head_and_stays_apart(golden: Golden, as_hf: AsHf) -> None:
    folder = as_hf(golden.folder(1))
    assert "lm_head.weight" in read_hf(folder)
    model = load(folder)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert not torch.equal(head, embedding)


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_weights_after_loading_are_those_in_the_files(golden: Golden, as_hf: AsHf) -> None:
    """Nothing is renamed, dropped or initialised on the way into the model."""
    folder = as_hf(golden.folder(4))
    loaded = load(folder).state_dict()
    stored = read_hf(folder)
    assert loaded.keys() - stored.keys() <= {"lm_head.weight"}
    assert [n for n, t in stored.items() if not torch.equal(loaded[n], t.float())] == []


def test_logits_do_not_depend_on_how_the_positions_are_given(as_hf: AsHf) -> None:
    """The explicit mask that gapped positions need is the plain causal one."""
    golden = BY_NAME["llama31-scaled"]
    model = load(as_hf(golden.folder(1)))
    near = slice(0, 32)
    plain = logits(model, golden.saved["tokens"][near], golden.saved["positions"][near])
    whole = logits(model, golden.saved["tokens"], golden.saved["positions"])
    assert torch.allclose(plain, whole[near], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_generation_with_a_cache_follows_the_logits(golden: Golden, as_hf: AsHf) -> None:
    """Both configs serve `generate`, and the cache holds as many heads as the weights have."""
    model = load(as_hf(golden.folder(4)))
    prompt = golden.saved["tokens"][None, :8]
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4,
                         do_sample=False, pad_token_id=0)  # fmt: skip
    assert ids.shape == (1, 12)
    rows = logits(model, ids[0], torch.arange(12))
    assert torch.equal(rows[7:11].argmax(1), ids[0, 8:])
