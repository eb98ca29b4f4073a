"""Configs that contradict their tensors, where believing either would make another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny import Tiny, meta_rank
from support.tiny_files import (
    meta_params,
    read_hf,
    unequal,
    write_hf,
    write_meta,
    write_ranks,
)
from transformers import AutoConfig
from transformers_logits import load

import llamatools
from llamatools.errors import BadInput


def _edit(folder: Path, name: str, **changed: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_key_value_heads": 4},
        {"vocab_size": 99},
        {"intermediate_size": 99},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"tie_word_embeddings": True},
        {"torch_dtype": "float32"},
    ],
    ids=str,
)
def test_stale_hf_config_is_put_right(wrong: dict[str, Any], tmp_path: Path) -> None:
    """With the head width stated, the tensors settle each of these."""
    model = Tiny()
    source = _edit(write_hf(model, tmp_path / "hf", version=5), "config.json", **wrong)
    llamatools.convert(source, tmp_path / "out", llamatools.Options(to="hf"))
    load(tmp_path / "out")  # strict
    assert unequal(read_hf(tmp_path / "out"), model.truth) == []


@pytest.mark.parametrize("heads", [4, 24])
def test_wrong_head_count_of_hf_is_refused(heads: int, tmp_path: Path) -> None:
    """heads : kv heads is 4 : 2 or 24 : 2 in the config and 8 : 2 in the tensors."""
    source = _edit(write_hf(Tiny(), tmp_path / "hf"), "config.json", num_attention_heads=heads)
    with pytest.raises(BadInput):
        llamatools.convert(source, tmp_path / "meta", llamatools.Options(to="meta", shards=1))


@pytest.mark.parametrize("files", [1, 2])
def test_wrong_head_count_of_meta_is_refused(files: int, tmp_path: Path) -> None:
    source = _edit(write_meta(Tiny(), tmp_path / "meta", files), "params.json", n_heads=4)
    with pytest.raises(BadInput):
        llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))


def test_half_a_head_in_a_file_is_refused(tmp_path: Path) -> None:
    """No rank ever holds part of a head: the head count of params.json must be wrong."""
    model = Tiny()
    source = _edit(write_meta(model, tmp_path / "meta", 4), "params.json", n_heads=4)
    with pytest.raises(BadInput):
        llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))


def test_copies_collapse_where_params_count_no_kv_heads(tmp_path: Path) -> None:
    """params.json without n_kv_heads means n_heads, which four files of one head each deny."""
    model = Tiny()
    params = meta_params(model, 4)
    del params["n_kv_heads"]
    ranks = [meta_rank(model, rank, 4) for rank in range(4)]
    source = write_ranks(tmp_path / "meta", ranks, params)
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "hf"), model.truth) == []


def test_two_thetas_are_reported_or_read_as_transformers_does(tmp_path: Path) -> None:
    """transformers 5 believes rope_parameters, transformers 4 rope_theta."""
    source = _edit(write_hf(Tiny(), tmp_path / "hf", version=5), "config.json", rope_theta=1e4)
    expected = AutoConfig.from_pretrained(source, local_files_only=True).rope_parameters
    try:
        opened = llamatools.open_checkpoint(source)
    except BadInput:
        return
    with opened:
        theta = opened.spec.rope_theta
        assert theta == expected["rope_theta"] or "theta" in " ".join(opened.conflicts)


def test_two_scalings_are_refused_or_kept(tmp_path: Path) -> None:
    """Both versions of transformers believe rope_scaling here: it must not get lost."""
    linear = {"rope_type": "linear", "factor": 2.0}
    source = _edit(write_hf(Tiny(), tmp_path / "hf", version=5), "config.json", rope_scaling=linear)
    try:
        llamatools.convert(source, tmp_path / "out", llamatools.Options(to="hf"))
    except BadInput:
        return
    config = AutoConfig.from_pretrained(tmp_path / "out", local_files_only=True)
    parameters = getattr(config, "rope_parameters", None) or config.rope_scaling
    assert parameters["rope_type"] == "linear"
