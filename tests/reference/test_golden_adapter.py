"""An adapter of PEFT's, merged into every form of its base, gives the logits it gives unmerged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from goldens import BY_NAME, DEFECT, HOME, TOLERANCE
from safetensors.torch import load_file, save_file
from support.calls import call
from transformers_logits import folder_logits

GOLDEN = BY_NAME["llama3-gqa"]
ADAPTER = HOME / "llama3-gqa-lora"


def error(folder: Path) -> float:
    """rms(difference) / std(logits)"""
    wanted = load_file(ADAPTER / "golden.safetensors")["logits"].double()
    found = folder_logits(folder, GOLDEN.prompt).double()
    return float((found - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("files", [1, 2, 4])
def test_merged_model_gives_the_unmerged_models_logits(files: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = GOLDEN.folder(files)
    done = call("merge-lora", base, ADAPTER, out, "--to", "hf", "--dtype", "fp32")
    assert done.code == 0, done.err
    assert error(out) <= TOLERANCE


def test_by_way_of_meta_files(tmp_path: Path) -> None:
    merged, out = tmp_path / "merged", tmp_path / "out"
    words = ("--shards", "4", "--dtype", "fp32")
    assert call("merge-lora", GOLDEN.folder(2), ADAPTER, merged, *words).code == 0
    assert len(list(merged.glob("consolidated.*.pth"))) == 4
    assert call("convert", merged, out, "--to", "hf").code == 0
    assert error(out) <= TOLERANCE


def test_rounding_to_bf16_is_all_that_bf16_costs(tmp_path: Path) -> None:
    assert call("merge-lora", GOLDEN.folder(2), ADAPTER, tmp_path / "out", "--to", "hf").code == 0
    assert TOLERANCE < error(tmp_path / "out") < 2 * DEFECT


@pytest.mark.parametrize("kind", ["q_proj.lora_B", "k_proj.lora_B"])
def test_rows_in_the_other_order_show(kind: str, tmp_path: Path) -> None:
    """The tolerance tells if the rows of a factor were turned once too often, or too seldom."""
    tensors = load_file(ADAPTER / "adapter_model.safetensors")
    for name, t in tensors.items():
        if kind in name:  # (heads · 8, r) -> (heads, 2, 4, r) -> (heads, 4, 2, r)
            turned = t.view(-1, 2, 4, t.shape[1]).transpose(1, 2).reshape(t.shape)
            assert not torch.equal(turned, t)
            tensors[name] = turned
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    save_file(tensors, wrong / "adapter_model.safetensors")
    config = (ADAPTER / "adapter_config.json").read_bytes()
    (wrong / "adapter_config.json").write_bytes(config)
    words = ("--to", "hf", "--dtype", "fp32")
    assert call("merge-lora", GOLDEN.folder(2), wrong, tmp_path / "out", *words).code == 0
    assert error(tmp_path / "out") > DEFECT
