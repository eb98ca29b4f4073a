"""params.json in every form found in the wild; what makes no sense is refused, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.calls import call, edit_json
from support.tiny import Tiny
from support.tiny_files import write_meta

import llamatools
from llamatools.errors import BadInput
from llamatools.layouts.meta_config import read_params

GOOD: dict[str, Any] = {
    "dim": 48,
    "n_layers": 2,
    "n_heads": 8,
    "n_kv_heads": 2,
    "vocab_size": 40,
    "multiple_of": 64,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


def _spec(source: Path) -> llamatools.ModelSpec:
    with llamatools.open_checkpoint(source) as opened:
        return opened.spec


def _conflicts(source: Path) -> str:
    with llamatools.open_checkpoint(source) as opened:
        return "\n".join(opened.conflicts)


def test_plain(meta: Path, model: Tiny) -> None:
    spec = _spec(meta)
    assert (spec.dim, spec.n_layers, spec.n_heads, spec.n_kv_heads) == (48, 2, 8, 2)
    assert (spec.head_dim, spec.ffn_dim, spec.vocab_size) == (6, 64, 40)
    assert (spec.norm_eps, spec.rope_theta, spec.tied) == (1e-5, 5e5, False)
    assert spec.rope_scaling is None
    assert spec.attention == "GQA"


def test_nested_under_model(meta: Path) -> None:
    params = meta / "params.json"
    wanted = _spec(meta)
    params.write_text(json.dumps({"model": json.loads(params.read_text()), "other": 1}))
    assert _spec(meta) == wanted


def test_nested_stays_nested(meta: Path, tmp_path: Path) -> None:
    params = meta / "params.json"
    nested = {"model": json.loads(params.read_text()) | {"mine": "kept"}, "other": 1}
    nested["model"]["vocab_size"] = 39  # tensors say 40
    params.write_text(json.dumps(nested))
    llamatools.convert(meta, tmp_path / "out", llamatools.Options("meta", shards=1))
    written = json.loads((tmp_path / "out" / "params.json").read_text())
    assert written == nested | {"model": nested["model"] | {"vocab_size": 40}}


def test_vocab_size_of_minus_one(meta: Path) -> None:
    edit_json(meta / "params.json", vocab_size=-1)
    assert _spec(meta).vocab_size == 40
    assert _conflicts(meta) == ""


def test_no_kv_heads_means_as_many_as_heads(tmp_path: Path) -> None:
    source = write_meta(Tiny(heads=4, kv_heads=4), tmp_path / "in", 2)
    edit_json(source / "params.json", n_kv_heads=...)
    assert _spec(source).n_kv_heads == 4
    assert _conflicts(source) == ""


def test_no_theta_is_ten_thousand_and_said(meta: Path) -> None:
    edit_json(meta / "params.json", rope_theta=...)
    with llamatools.open_checkpoint(meta) as opened:
        assert opened.spec.rope_theta == 10000
        assert any("rope_theta" in n for n in opened.notes)


def test_unknown_keys_are_named(meta: Path) -> None:
    edit_json(meta / "params.json", flux_capacity=88)
    with llamatools.open_checkpoint(meta) as opened:
        assert any("flux_capacity" in n for n in opened.notes)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocab_size", 39, "vocab_size 39, the tensors say 40"),
        ("multiple_of", 128, "ffn_dim 128, the tensors say 64"),
    ],
)
def test_tensors_win(key: str, value: int, words: str, tmp_path: Path) -> None:
    model = Tiny(ffn=64)
    source = write_meta(model, tmp_path / "in", 1)
    edit_json(source / "params.json", **{key: value})
    assert words in _conflicts(source)
    out = tmp_path / "out"
    manifest = llamatools.convert(source, out, llamatools.Options("meta"))
    assert words in str(manifest["conflicts"])
    assert _conflicts(out) == ""
    with llamatools.open_checkpoint(out) as opened:
        assert opened.spec.ffn_dim == 64


def test_scaled_rope_has_factor_eight_unless_tied(tmp_path: Path) -> None:
    for tied, factor in ((False, 8.0), (True, 32.0)):
        source = write_meta(Tiny(style="llama-3.1", tied=tied), tmp_path / f"{tied}", 1)
        scaling = _spec(source).rope_scaling
        assert scaling == llamatools.RopeScaling("llama3", factor, 1.0, 4.0, 8192)


def test_a_stated_factor_wins(meta: Path) -> None:
    edit_json(meta / "params.json", use_scaled_rope=True, rope_scaling_factor=16)
    scaling = _spec(meta).rope_scaling
    assert scaling is not None
    assert scaling.factor == 16.0


def test_a_factor_no_release_has_survives_the_round_trip(hf: Path, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 5.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    edit_json(hf / "config.json", rope_scaling=scaling)
    llamatools.convert(hf, tmp_path / "meta1", llamatools.Options("meta"))
    llamatools.convert(tmp_path / "meta1", tmp_path / "back", llamatools.Options("hf"))
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"] == scaling


WRONG: list[tuple[str, Any]] = [
    (key, value)
    for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "vocab_size")
    for value in (0, -2, 1.5, "48", True, [48], {}, 10**13)
]
WRONG += [
    (key, value)
    for key in ("norm_eps", "rope_theta", "ffn_dim_multiplier", "rope_scaling_factor")
    for value in (0, -1.0, "1e-5", False, [1.0], {})
]
WRONG += [("use_scaled_rope", value) for value in (1, 0, "true", [], {})]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda v: repr(v))
def test_values_that_make_no_sense(key: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        read_params(GOOD | {key: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"params.json: {key}: expected")


def test_all_problems_are_listed_at_once() -> None:
    bad = GOOD | {"dim": -1, "n_heads": "8", "norm_eps": None, "use_scaled_rope": 3}
    del bad["n_layers"]
    with pytest.raises(BadInput) as caught:
        read_params(bad)
    text = str(caught.value)
    for key in ("dim", "n_heads", "norm_eps", "use_scaled_rope", "n_layers"):
        assert f"params.json: {key}" in text
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("missing", ["dim", "n_layers", "n_heads", "norm_eps"])
def test_what_must_be_there(missing: str) -> None:
    with pytest.raises(BadInput, match=f"{missing} is missing"):
        read_params({k: v for k, v in GOOD.items() if k != missing})


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"dim"', "", "{", '{"dim": NaN}', '{"a":1,"a":2}']
)
def test_not_an_object(text: str, meta: Path) -> None:
    (meta / "params.json").write_text(text)
    done = call("inspect", meta)
    assert done.code == 3
    assert "params.json" in done.err


@pytest.mark.parametrize("layers", [3, 10**9, (1 << 40) - 1])
def test_layers_that_are_not_there(layers: int, meta: Path) -> None:
    """At once, however many are claimed."""
    edit_json(meta / "params.json", n_layers=layers)
    done = call("inspect", meta)
    assert done.code == 3
    assert f"{layers} layers, but the files hold tensors of 2" in done.err


@pytest.mark.parametrize("heads", [3, 5, 7, 48, 1 << 39])
def test_heads_that_do_not_fit(heads: int, meta: Path) -> None:
    edit_json(meta / "params.json", n_heads=heads)
    done = call("inspect", meta)
    assert done.code == 3, done.out
    assert "heads" in done.err


@pytest.mark.parametrize("multiplier", [1e308, 1e300])
def test_a_huge_multiplier(multiplier: float) -> None:
    with pytest.raises(BadInput):
        read_params(GOOD | {"ffn_dim_multiplier": multiplier, "dim": 10**9})


def test_a_head_count_that_contradicts_the_ratio(tmp_path: Path) -> None:
    """8 heads and 2 for keys have 4 rows of q for one of k; 16 and 2 have 8. Which is wrong
    cannot be known, and the row order depends on it."""
    source = write_meta(Tiny(heads=8, kv_heads=2, head_dim=8), tmp_path / "in", 1)
    edit_json(source / "params.json", n_heads=16)
    with pytest.raises(BadInput):
        _spec(source)
