"""Adapters that bring a larger vocabulary and its tokenizer, as Chinese-LLaMA's do.

The first extends the vocabulary and holds the whole embedding and head beside its factors; the
second was trained on the result, and holds them again. Both carry the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calls import call, edit_json
from support.lora import PREFIX, factors, sums, write_adapter
from support.tiny import Tensors, Tiny, finite
from support.tiny_files import read_hf, write_hf, write_meta
from support.vocabularies import sentencepiece_model

import llamatools
from llamatools.tokenizer.merge import merge
from llamatools.tokenizer.sentencepiece_model import Piece, read_model

SIZE, GROWN = 420, 423
MODEL = finite(Tiny(style="llama-2", vocab=SIZE, kv_heads=8))
VOCABULARY = ("model.embed_tokens", "lm_head")


def extended() -> bytes:
    """The base's tokenizer with three more pieces."""
    small = read_model(sentencepiece_model(SIZE), "small")
    more = (Piece("zz", 0.0), Piece("▁zzz", 0.0), Piece("qq", 0.0))
    return merge(small, more).model.to_bytes()


def full_rows(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{PREFIX}{module}.weight": torch.randn(GROWN, MODEL.dim, generator=generator)
        for module in VOCABULARY
    }


def adapter(folder: Path, seed: int, *modules: str) -> tuple[Path, Tensors]:
    tensors = factors(MODEL, *modules) | full_rows(seed)
    write_adapter(
        folder,
        tensors,
        target_modules=list(modules),
        modules_to_save=["embed_tokens", "lm_head"],
    )
    (folder / "tokenizer.model").write_bytes(extended())
    return folder, tensors


def base(tmp_path: Path, layout: str) -> Path:
    write = {"hf": write_hf, "meta": lambda m, f: write_meta(m, f, 2)}[layout]
    folder = write(MODEL, tmp_path / "base")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(SIZE))
    return folder


@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_two_in_sequence(layout: str, tmp_path: Path) -> None:
    first, one = adapter(tmp_path / "pretrained", 1, "q_proj", "v_proj")
    second, two = adapter(tmp_path / "tuned", 2, "q_proj", "down_proj")
    out = tmp_path / "out"
    words = ("--to", "hf", "--dtype", "fp32", "--json")
    done = call("merge-lora", base(tmp_path, layout), first, second, out, *words)
    assert done.code == 0, done.err
    found = read_hf(out)
    wanted = sums(MODEL, one, 2.0)
    change = sums(MODEL, two, 2.0)
    for name, truth in MODEL.truth.items():
        wanted[name] = wanted[name] + change[name] - truth.double()
    for module in VOCABULARY:  # the last to hold them has the last word
        wanted[f"{module}.weight"] = two[f"{PREFIX}{module}.weight"].double()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name].double(), tensor, rtol=1e-6, atol=1e-9), name
    assert json.loads((out / "config.json").read_text())["vocab_size"] == GROWN
    assert (out / "tokenizer.model").read_bytes() == extended()
    assert done.json["tokenizer"]["tokens"] == GROWN
    assert [a["name"] for a in done.json["merge"]["adapters"]] == ["pretrained", "tuned"]


def test_the_bases_fingerprint_is_recorded_though_its_rows_are_replaced(tmp_path: Path) -> None:
    source = base(tmp_path, "hf")
    folder, _ = adapter(tmp_path / "adapter", 1, "q_proj")
    done = call("merge-lora", source, folder, tmp_path / "out", "--json")
    before = llamatools.fingerprint(source).digest
    assert done.json["merge"]["base_fingerprint"] == before
    assert done.json["fingerprint"] == llamatools.fingerprint(tmp_path / "out").digest != before


def test_meta_output_has_the_new_rows_in_every_file(tmp_path: Path) -> None:
    folder, tensors = adapter(tmp_path / "adapter", 1, "q_proj")
    done = call("merge-lora", base(tmp_path, "meta"), folder, tmp_path / "out", "--shards", "2")
    assert done.code == 0, done.err
    assert (tmp_path / "out/tokenizer.model").read_bytes() == extended()
    back = tmp_path / "back"
    assert call("convert", tmp_path / "out", back, "--to", "hf").code == 0
    for module in VOCABULARY:
        wanted = tensors[f"{PREFIX}{module}.weight"].to(MODEL.dtype)
        assert torch.equal(read_hf(back)[f"{module}.weight"], wanted)


def test_without_a_tokenizer_it_is_said(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "adapter", 1, "q_proj")
    (folder / "tokenizer.model").unlink()
    done = call("merge-lora", base(tmp_path, "hf"), folder, tmp_path / "out", "--json")
    assert done.code == 0
    assert any("no adapter brings a tokenizer" in c for c in done.json["conflicts"])


def test_another_tokenizer_may_be_given(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "adapter", 1, "q_proj")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "tokenizer.model").write_bytes(sentencepiece_model(SIZE))
    words = ("--tokenizer", mine, "--json")
    done = call("merge-lora", base(tmp_path, "hf"), folder, tmp_path / "out", *words)
    assert done.json["tokenizer"]["tokens"] == SIZE


def test_a_grown_embedding_without_its_head_is_refused(tmp_path: Path) -> None:
    folder, tensors = adapter(tmp_path / "adapter", 1, "q_proj")
    del tensors[f"{PREFIX}lm_head.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    edit_json(folder / "adapter_config.json", modules_to_save=["embed_tokens"])
    done = call("merge-lora", base(tmp_path, "hf"), folder, tmp_path / "out")
    assert done.code == 3
    assert "the embedding has 423 rows and the head 420" in done.err


def test_pickled_adapters_of_the_old_kind(tmp_path: Path) -> None:
    """adapter_model.bin, and names that hold the adapter's own."""
    folder, tensors = adapter(tmp_path / "adapter", 1, "q_proj", "v_proj")
    source = base(tmp_path, "hf")
    assert call("merge-lora", source, folder, tmp_path / "new").code == 0
    (folder / "adapter_model.safetensors").unlink()
    renamed = {
        n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): t
        for n, t in tensors.items()
    }
    torch.save(renamed, folder / "adapter_model.bin")
    assert call("merge-lora", source, folder, tmp_path / "old").code == 0
    new, old = (load_file(tmp_path / n / "model.safetensors") for n in ("new", "old"))
    assert all(torch.equal(new[n], old[n]) for n in new)


def test_a_copy_of_the_bases_matrix_does_not_undo_the_adapter_before(tmp_path: Path) -> None:
    """PEFT saves the base's embedding beside its factors; two adapters of one base both have it."""
    rows = "model.embed_tokens"
    folders, changes = [], []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(2, SIZE, generator=generator) * 0.1
        b = torch.randn(MODEL.dim, 2, generator=generator) * 0.1
        changes.append(2.0 * (b.double() @ a.double()).T)
        tensors = {
            f"{PREFIX}{rows}.lora_embedding_A": a,
            f"{PREFIX}{rows}.lora_embedding_B": b,
            f"{PREFIX}{rows}.base_layer.weight": MODEL.truth[f"{rows}.weight"].float(),
        }
        folder = tmp_path / f"adapter-{seed}"
        folders.append(write_adapter(folder, tensors, target_modules=["embed_tokens"]))
    out = tmp_path / "out"
    done = call("merge-lora", base(tmp_path, "hf"), *folders, out, "--dtype", "fp32")
    assert done.code == 0, done.err
    wanted = MODEL.truth[f"{rows}.weight"].double() + changes[0] + changes[1]
    assert torch.allclose(read_hf(out)[f"{rows}.weight"].double(), wanted, rtol=1e-6, atol=1e-9)
