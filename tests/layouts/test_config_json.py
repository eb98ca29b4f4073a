"""config.json of transformers 4 and 5, honest and stale; what makes no sense is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calls import call, edit_json
from support.tiny import Tiny
from support.tiny_files import hf_config, read_hf, unequal, write_hf

import llamatools
from llamatools.errors import BadInput
from llamatools.layouts.hf_config import read_config

GOOD = hf_config(Tiny())


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def _spec(source: Path) -> llamatools.ModelSpec:
    with llamatools.open_checkpoint(source) as opened:
        return opened.spec


def _to_hf(source: Path, out: Path) -> dict[str, Any]:
    llamatools.convert(source, out, llamatools.Options("hf"))
    return _read(out)


@pytest.mark.parametrize("style", ["llama-1", "llama-3", "llama-3.2"])
def test_versions_say_the_same(style: str, tmp_path: Path) -> None:
    model = Tiny(style=style)
    four = write_hf(model, tmp_path / "four", version=4)
    five = write_hf(model, tmp_path / "five", version=5)
    assert _spec(four) == _spec(five)
    assert _spec(four).rope_theta == model.constants.theta


def test_own_keys_are_kept(hf: Path, tmp_path: Path) -> None:
    mine = {"bos_token_id": 7, "my_key": [1, {"é": None}], "_name_or_path": "x", "use_cache": False}
    edit_json(hf / "config.json", **mine)
    assert _to_hf(hf, tmp_path / "out") == _read(hf)


def test_an_honest_config_is_left_as_it_is(hf: Path, tmp_path: Path) -> None:
    assert list(_to_hf(hf, tmp_path / "out").items()) == list(_read(hf).items())


STALE: list[tuple[str, Any, Any]] = [
    ("vocab_size", 39, 40),
    ("intermediate_size", 65, 64),
    ("num_key_value_heads", None, 2),
    ("attention_bias", True, False),
    ("mlp_bias", True, False),
    ("tie_word_embeddings", True, False),
    ("hidden_size", 56, 48),
]


@pytest.mark.parametrize(("key", "lie", "truth"), STALE, ids=lambda v: str(v))
def test_tensors_win(key: str, lie: Any, truth: Any, hf: Path, tmp_path: Path, model: Tiny) -> None:
    edit_json(hf / "config.json", **{key: lie})
    with llamatools.open_checkpoint(hf) as opened:
        assert f"the tensors say {truth}" in "\n".join(opened.conflicts)
    out = tmp_path / "out"
    assert _to_hf(hf, out)[key] == truth
    assert unequal(read_hf(out), model.truth) == []
    with llamatools.open_checkpoint(out) as opened:
        assert opened.conflicts == ()


def test_key_value_heads_that_contradict_the_heads(hf: Path) -> None:
    """Either count may be the wrong one, unless the config says how wide a head is."""
    edit_json(hf / "config.json", num_key_value_heads=4)
    done = call("inspect", hf)
    assert done.code == 3
    assert "8 heads and 4 key-value heads" in done.err
    edit_json(hf / "config.json", head_dim=6)
    seen = call("inspect", hf, "--json")
    assert seen.json["architecture"]["n_kv_heads"] == 2
    assert "n_kv_heads 4, the tensors say 2" in "\n".join(seen.json["conflicts"])


def test_a_stale_dtype_is_corrected(hf: Path, tmp_path: Path) -> None:
    edit_json(hf / "config.json", torch_dtype="float32")
    assert _to_hf(hf, tmp_path / "out")["torch_dtype"] == "bfloat16"


def test_a_stale_dtype_is_reported(hf: Path) -> None:
    edit_json(hf / "config.json", torch_dtype="float32")
    with llamatools.open_checkpoint(hf) as opened:
        assert any("dtype" in c for c in opened.conflicts)


def test_both_spellings_of_dtype_are_corrected(hf: Path, tmp_path: Path) -> None:
    edit_json(hf / "config.json", torch_dtype="float16", dtype="float32")
    written = _to_hf(hf, tmp_path / "out")
    assert (written["torch_dtype"], written["dtype"]) == ("bfloat16", "bfloat16")


def test_biases_that_nobody_announced(tmp_path: Path) -> None:
    source = write_hf(Tiny(attention_bias=True), tmp_path / "in")
    edit_json(source / "config.json", attention_bias=...)
    assert _spec(source).attention_bias
    assert _to_hf(source, tmp_path / "out")["attention_bias"] is True


def test_a_tied_model_that_stores_its_head(tmp_path: Path) -> None:
    """The copy is dropped, whatever the container."""
    model = Tiny(style="llama-3.2", tied=True)
    source = write_hf(model, tmp_path / "in")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors")
    assert _spec(source).tied
    out = tmp_path / "out"
    assert _to_hf(source, out)["tie_word_embeddings"] is True
    assert unequal(read_hf(out), model.truth) == []


def test_a_model_said_to_be_tied_whose_head_differs(hf: Path, tmp_path: Path, model: Tiny) -> None:
    edit_json(hf / "config.json", tie_word_embeddings=True)
    out = tmp_path / "out"
    assert _to_hf(hf, out)["tie_word_embeddings"] is False
    assert "lm_head.weight" in read_hf(out)


def test_an_equal_head_kept_apart(tmp_path: Path) -> None:
    """The flag says untied, so fine-tuning may part them: nothing is dropped."""
    source = write_hf(Tiny(tied=True), tmp_path / "in")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors")
    edit_json(source / "config.json", tie_word_embeddings=False)
    out = tmp_path / "out"
    assert _to_hf(source, out)["tie_word_embeddings"] is False
    assert unequal(read_hf(out), tensors) == []


def test_a_missing_head_of_an_untied_model(tmp_path: Path) -> None:
    source = write_hf(Tiny(tied=True), tmp_path / "in")
    edit_json(source / "config.json", tie_word_embeddings=False)
    done = call("inspect", source)
    assert done.code == 3
    assert "lm_head.weight" in done.err


WRONG: list[tuple[str, Any]] = [
    (key, value)
    for key in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    )
    for value in (0, -1, 2.5, "8", True, [8], {}, 10**13)
]
WRONG += [
    (key, value)
    for key in ("rms_norm_eps", "rope_theta", "partial_rotary_factor")
    for value in (0, -1e-6, "1e-6", True, [], {})
]
WRONG += [
    (key, value)
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias")
    for value in (0, 1, "true", [])
]
WRONG += [("hidden_act", v) for v in ("gelu", "relu", 3)]
WRONG += [("torch_dtype", 16), ("dtype", ["bfloat16"]), ("partial_rotary_factor", 0.5)]
WRONG += [("rope_scaling", v) for v in (8.0, "llama3", [], {"rope_type": "ntk", "factor": 2.0})]
WRONG += [
    ("rope_scaling", {"type": "linear"}),
    ("rope_scaling", {"type": "linear", "factor": -2}),
    ("rope_scaling", {"type": "linear", "factor": "2"}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ("rope_scaling", {"rope_type": ["llama3"], "factor": 8.0}),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda v: repr(v))
def test_values_that_make_no_sense(key: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        read_config(GOOD | {key: value})
    assert caught.value.problems
    assert all(p.startswith(f"config.json: {key}") for p in caught.value.problems)


@pytest.mark.parametrize("key", ["rope_theta", "partial_rotary_factor"])
@pytest.mark.parametrize("value", ["abc", -1.0, [1]])
def test_wrong_values_in_rope_parameters(key: str, value: object) -> None:
    with pytest.raises(BadInput):
        read_config(hf_config(Tiny(), version=5) | {"rope_parameters": {key: value}})


def test_two_thetas_that_differ(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "in", version=5)
    edit_json(source / "config.json", rope_theta=12345.0)
    done = call("inspect", source, "--json")
    assert done.code == 3 or done.json["conflicts"]


def test_all_problems_are_listed_at_once() -> None:
    bad = GOOD | {"hidden_size": -1, "vocab_size": "x", "mlp_bias": 3, "rms_norm_eps": []}
    del bad["num_hidden_layers"]
    with pytest.raises(BadInput) as caught:
        read_config(bad)
    for key in ("hidden_size", "vocab_size", "mlp_bias", "rms_norm_eps", "num_hidden_layers"):
        assert f"config.json: {key}" in str(caught.value)


@pytest.mark.parametrize("layers", [1, 10**9])
def test_layers_that_are_not_there(layers: int, hf: Path) -> None:
    edit_json(hf / "config.json", num_hidden_layers=layers)
    done = call("inspect", hf)
    assert done.code == 3
    assert f"{layers} layers, but the files hold tensors of 2" in done.err


def test_defaults_are_said(hf: Path) -> None:
    edit_json(hf / "config.json", rms_norm_eps=..., rope_theta=...)
    with llamatools.open_checkpoint(hf) as opened:
        assert (opened.spec.norm_eps, opened.spec.rope_theta) == (1e-6, 1e4)
        assert len(opened.notes) == 2


# Heads wider than dim / heads.


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """dim 48, 4 heads of 16."""
    model = Tiny(heads=4, kv_heads=2, head_dim=12)
    source = write_hf(model, tmp_path / "wide")
    tensors = dict(model.truth)
    for name in list(tensors):
        if "self_attn" in name:
            rows = 64 if "q_proj" in name else 32
            shape = (48, 64) if "o_proj" in name else (rows, 48)
            tensors[name] = torch.randn(shape).to(model.dtype)
    save_file(tensors, source / "model.safetensors")
    edit_json(source / "config.json", head_dim=16)
    return source


def test_wide_heads_from_hf_to_hf(wide: Path, tmp_path: Path) -> None:
    assert _to_hf(wide, tmp_path / "out") == _read(wide)
    assert _spec(wide).head_dim == 16
    assert unequal(read_hf(tmp_path / "out"), read_hf(wide)) == []


def test_wide_heads_have_no_meta_form(wide: Path, tmp_path: Path) -> None:
    done = call("convert", wide, tmp_path / "out", "--to", "meta")
    assert done.code == 3
    assert "head_dim 16 x 4 heads is not dim 48" in done.err
    assert "hint: " in done.err
    assert not (tmp_path / "out").exists()


# Other ways to scale rotary frequencies.

LINEAR = {"type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
    "beta_fast": 16.0,
    "attention_factor": 1.5,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
OTHER_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 2.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALINGS = pytest.mark.parametrize(
    "scaling", [LINEAR, DYNAMIC, YARN, LONG, OTHER_LLAMA3], ids=lambda s: s.get("rope_type", "old")
)


@SCALINGS
def test_scaling_is_kept_from_hf_to_hf(scaling: dict[str, Any], hf: Path, tmp_path: Path) -> None:
    edit_json(hf / "config.json", rope_scaling=scaling)
    assert _to_hf(hf, tmp_path / "out") == _read(hf)


@SCALINGS
def test_scaling_that_has_no_meta_form(scaling: dict[str, Any], hf: Path, tmp_path: Path) -> None:
    edit_json(hf / "config.json", rope_scaling=scaling)
    done = call("convert", hf, tmp_path / "out", "--to", "meta")
    assert done.code == 3
    assert "rope scaling" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scaling", [YARN, LONG], ids=["yarn", "longrope"])
def test_scaling_of_transformers_5_loses_nothing(scaling: dict[str, Any], tmp_path: Path) -> None:
    """Its form is translated for transformers 4; both read rope_scaling first."""
    source = write_hf(Tiny(), tmp_path / "in", version=5)
    edit_json(source / "config.json", rope_parameters={"rope_theta": 5e5, **scaling})
    written = _to_hf(source, tmp_path / "out")
    assert written["rope_scaling"] == scaling


SCALED = {"rope_type": "linear", "factor": 2.0}


def test_theta_may_stand_in_the_scaling(hf: Path, tmp_path: Path) -> None:
    """transformers 5 looks there, and 4 does not: what is written has it at both places."""
    edit_json(hf / "config.json", rope_scaling=SCALED | {"rope_theta": 3e4}, rope_theta=...)
    assert read_config(_read(hf)).rope_theta == 3e4
    written = _to_hf(hf, tmp_path / "out")
    assert written["rope_theta"] == 3e4 == written["rope_scaling"]["rope_theta"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": SCALED | {"rope_theta": 3e4}, "rope_theta": 1e4},
        {
            "rope_scaling": SCALED | {"rope_theta": 3e4},
            "rope_parameters": SCALED | {"rope_theta": 1e4},
            "rope_theta": ...,
        },
        {"rope_scaling": SCALED | {"rope_theta": "much"}},
    ],
    ids=["beside", "in both", "no number"],
)
def test_a_theta_in_the_scaling_that_differs(changes: dict[str, Any], hf: Path) -> None:
    edit_json(hf / "config.json", **changes)
    with pytest.raises(BadInput) as caught:
        read_config(_read(hf))
    assert len(caught.value.problems) == 1 and "rope_theta" in caught.value.problems[0]
    edit_json(hf / "config.json", rope_theta=3e4, rope_parameters=..., rope_scaling=SCALED)
    assert read_config(_read(hf)).rope_theta == 3e4
