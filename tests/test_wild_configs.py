"""Configs with anything anywhere: a command answers or refuses, and never breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import call
from support.tiny import Tiny
from support.tiny_files import hf_config, meta_params, write_hf, write_meta

MODEL = Tiny()
ROPE = ("rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "rope_theta",
        "original_max_position_embeddings", "partial_rotary_factor")  # fmt: skip
CONFIG_KEYS = (*hf_config(MODEL), "rope_parameters", "head_dim", "dtype", "quantization_config",
               "partial_rotary_factor", "bos_token_id")  # fmt: skip
PARAMS_KEYS = (*meta_params(MODEL, 2), "ffn_dim_multiplier", "use_scaled_rope", "model",
               "rope_scaling_factor", "vision_chunk_size", "lora_args")  # fmt: skip

NUMBERS = st.one_of(
    st.integers(-3, 200),
    st.integers(-(10**20) + 1, 10**20 - 1),
    st.sampled_from([1 << 40, (1 << 40) - 1, 1 << 63, 1e308, 5e-324, 1e-300, -0.0, 4.5]),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(ROPE), st.text(max_size=4)), inner, max_size=4),
    ),
    max_leaves=6,
)
CHANGES = settings(max_examples=120)


@pytest.fixture(scope="module")
def hf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(MODEL, tmp_path_factory.mktemp("wild") / "hf")


@pytest.fixture(scope="module")
def meta_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meta(MODEL, tmp_path_factory.mktemp("wild") / "meta", 2)


def _answers(source: Path, name: str, data: Any, to: str) -> None:
    (source / name).write_text(json.dumps(data))
    seen = call("inspect", source)
    assert seen.code in (0, 3), seen.err
    if seen.code == 0:
        plan = call("convert", source, source.parent / "out", "--to", to, "--dry-run", "--json")
        assert plan.code in (0, 3), plan.err


@given(changes=st.dictionaries(st.sampled_from(CONFIG_KEYS), VALUES, min_size=1, max_size=2))
@CHANGES
def test_config_json(hf_model: Path, changes: dict[str, Any]) -> None:
    _answers(hf_model, "config.json", hf_config(MODEL) | changes, "meta")


@given(changes=st.dictionaries(st.sampled_from(PARAMS_KEYS), VALUES, min_size=1, max_size=2))
@CHANGES
def test_params_json(meta_model: Path, changes: dict[str, Any]) -> None:
    _answers(meta_model, "params.json", meta_params(MODEL, 2) | changes, "hf")


@given(drop=st.sets(st.sampled_from(CONFIG_KEYS), min_size=1))
@CHANGES
def test_config_json_with_holes(hf_model: Path, drop: set[str]) -> None:
    left = {k: v for k, v in hf_config(MODEL).items() if k not in drop}
    _answers(hf_model, "config.json", left, "meta")


@given(drop=st.sets(st.sampled_from(PARAMS_KEYS), min_size=1))
@CHANGES
def test_params_json_with_holes(meta_model: Path, drop: set[str]) -> None:
    left = {k: v for k, v in meta_params(MODEL, 2).items() if k not in drop}
    _answers(meta_model, "params.json", left, "hf")
