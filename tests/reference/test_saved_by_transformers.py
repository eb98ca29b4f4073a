"""Checkpoints that transformers itself wrote stay that model: through Meta layout and back, and
from HF layout to HF layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from random_llama import HF_ONLY, POSITIONS, TOKENS, VARIANTS, save_llama
from support.tiny_files import read_hf, unequal
from transformers_logits import load, logits

import llamatools
from llamatools.errors import NotRepresentable


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_through_meta_gives_the_same_logits(variant: str, tmp_path: Path) -> None:
    model = save_llama(tmp_path / "hf", **VARIANTS[variant])
    options = llamatools.Options(to="meta", shards=2)
    llamatools.convert(tmp_path / "hf", tmp_path / "meta", options)
    llamatools.convert(tmp_path / "meta", tmp_path / "back", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "back"), read_hf(tmp_path / "hf")) == []
    found = logits(load(tmp_path / "back"), TOKENS, POSITIONS)
    assert torch.equal(found, logits(model, TOKENS, POSITIONS))


def _rewrite_config(folder: Path, version: int) -> None:
    """Put config.json into the form that transformers 4 or 5 writes."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    scaling = config.pop("rope_scaling", None) or {}
    rope = config.pop("rope_parameters", None) or {"rope_type": "default"} | scaling
    theta = rope.pop("rope_theta", None) or config.pop("rope_theta")
    dtype = config.pop("dtype", None) or config.pop("torch_dtype")
    if version == 4:
        scaling = None if rope["rope_type"] == "default" else rope
        config |= {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": dtype}
    else:
        config |= {"rope_parameters": {"rope_theta": theta, **rope}, "dtype": dtype}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("variant", "version"),
    [
        *((v, 4) for v in ("plain", "factor 8", *HF_ONLY)),
        *((v, 5) for v in ("plain", "factor 8", *HF_ONLY)),
    ],
)
@pytest.mark.parametrize("to", ["hf", "safetensors"])
def test_hf_to_hf_gives_the_same_logits(
    variant: str, version: int, to: str, tmp_path: Path
) -> None:
    model = save_llama(tmp_path / "hf", **(VARIANTS | HF_ONLY)[variant])
    _rewrite_config(tmp_path / "hf", version)
    llamatools.convert(tmp_path / "hf", tmp_path / "out", llamatools.Options(to=to))
    assert unequal(read_hf(tmp_path / "out"), read_hf(tmp_path / "hf")) == []
    found = logits(load(tmp_path / "out"), TOKENS, POSITIONS)
    assert torch.equal(found, logits(model, TOKENS, POSITIONS))


@pytest.mark.parametrize("variant", HF_ONLY)
def test_what_meta_cannot_state_is_refused(variant: str, tmp_path: Path) -> None:
    save_llama(tmp_path / "hf", **HF_ONLY[variant])
    with pytest.raises(NotRepresentable):
        llamatools.convert(tmp_path / "hf", tmp_path / "meta", llamatools.Options(to="meta"))
    assert not (tmp_path / "meta").exists()
