"""What cannot be extracted is refused, all of it at once, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calls import Called, call, edit_json, leftovers
from support.tiny_files import write_hf, write_meta
from tuned_models import EMBEDDING, HEAD, LINEAR, Change, shift, small, together, tuned

import llamatools

CHANGE = together(shift(LINEAR), shift("norm.weight", EMBEDDING, HEAD))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_hf(small(), tmp_path / "base")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_hf(tuned(small(), CHANGE), tmp_path / "tuned")


def refused(base: Path, other: Path, *more: object, code: int) -> Called:
    out = base.parent / "out"
    done = call("extract-lora", base, other, out, "--rank", 4, "--quiet", *more)
    assert done.code == code, done.err
    assert leftovers(out) == []
    assert "Traceback" not in done.err
    return done


def test_another_architecture(base: Path, tmp_path: Path) -> None:
    model = small(heads=8, layers=3, ffn=48, mlp_bias=True)
    done = refused(base, write_hf(model, tmp_path / "tuned"), code=3)
    for words in (
        "dim: 32 in the base, 64 in the tuned model", "n_layers: 2", "n_heads: 4", "ffn_dim: 40",
        "mlp_bias: False in the base, True", "hint: ",
    ):  # fmt: skip
        assert words in done.err
    assert "head_dim" not in done.err


@pytest.mark.parametrize("write", [write_hf, lambda m, p: write_meta(m, p, 2)], ids=["hf", "meta"])
def test_equal_models(write: Any, base: Path, tmp_path: Path) -> None:
    done = refused(base, write(small(), tmp_path / "tuned"), code=3)
    assert "there is nothing to extract" in done.err


def test_equal_but_for_the_type(base: Path, tmp_path: Path) -> None:
    """Zeros of either sign are one number, and so is a number in a wider type."""
    half = tuned(small(), lambda tensors: None, dtype=torch.bfloat16)
    half.truth["model.norm.weight"][0] = 0.0
    wide = tuned(half, lambda tensors: None, dtype=torch.float32)
    wide.truth["model.norm.weight"][0] = -0.0
    done = refused(write_hf(half, tmp_path / "half"), write_hf(wide, tmp_path / "wide"), code=3)
    assert "there is nothing to extract" in done.err


def test_all_that_differs_is_left_out(base: Path, tmp_path: Path) -> None:
    other = write_hf(tuned(small(), shift("norm.weight")), tmp_path / "tuned")
    done = refused(base, other, "--save-modules", "none", code=3)
    assert "all that differs is left out: model.layers.0.input_layernorm.weight" in done.err


def _spoil(value: float, *names: str) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in names:
            tensors[name].view(-1)[5] = value

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number(value: float, base: Path, tmp_path: Path) -> None:
    names = ("model.norm.weight", "model.layers.1.self_attn.k_proj.weight", HEAD)
    other = write_hf(tuned(small(), _spoil(value, *names)), tmp_path / "tuned")
    for pair in ((base, other), (other, base)):
        done = refused(*pair, "--save-modules", "norm", code=3)
        assert all(f"{name}: differs, and holds NaN" in done.err for name in names)
        assert done.err.count("holds NaN") == len(names)


def test_what_is_no_number_in_both(tmp_path: Path) -> None:
    """Tensors that do not differ are nobody's business."""
    model = tuned(small(), _spoil(float("nan"), EMBEDDING, "model.layers.1.mlp.up_proj.weight"))
    other = tuned(model, shift("q_proj.weight"))
    done = call(
        "extract-lora", write_hf(model, tmp_path / "a"), write_hf(other, tmp_path / "b"),
        tmp_path / "out", "--rank", 2, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(done.json["tensors"]) == 2


def test_beyond_the_type(base: Path, tmp_path: Path) -> None:
    other = write_hf(tuned(small(), shift("v_proj.weight", size=1e10)), tmp_path / "tuned")
    done = refused(base, other, "--dtype", "fp16", code=3)
    assert "1.self_attn.v_proj.weight: its difference is beyond the range" in done.err
    assert call("extract-lora", base, other, tmp_path / "o", "--rank", 1, "-q").code == 0


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--modules", "q_prj,norm,v_proj"], ["--modules q_prj: no weight", "--modules norm: no"]),
        (["--modules", "proj"], ["--modules proj"]),
        (["--save-modules", "q_proj,layernorm"], ["--save-modules q_proj", "modules layernorm"]),
        (["--save-modules", "bias"], ["--save-modules bias"]),
        (["--save-modules", "auto,norm"], ["--save-modules auto"]),
        (
            ["--modules", "lm_head", "--save-modules", "lm_head"],
            ["lm_head: named in --modules and"],
        ),
        (["--modules", "q_proj,,"], ["are not names"]),
        (["--rank", "0"], ["0"]),
        (["--dtype", "int8"], ["int8"]),
        (["--max-error", "-1"], ["-1"]),
        (["--max-error", "nan"], ["nan"]),
    ],
)
def test_wrong_words(words: list[str], messages: list[str], base: Path, other: Path) -> None:
    done = refused(base, other, *words, code=2)
    for message in messages:
        assert message in done.err


def test_the_head_of_tied_models(tmp_path: Path) -> None:
    model = small(tied=True)
    paths = write_hf(model, tmp_path / "base"), write_hf(tuned(model, CHANGE), tmp_path / "tuned")
    done = refused(*paths, "--modules", "lm_head", code=2)
    assert "name embed_tokens" in done.err
    assert "name embed_tokens" in refused(*paths, "--save-modules", "lm_head", code=2).err


def test_wrong_wishes() -> None:
    with pytest.raises(llamatools.LlamatoolsError) as caught:
        llamatools.Extract(rank=0, dtype="int8", max_error=float("nan"))
    assert len(caught.value.problems) == 3
    assert caught.value.exit_code == 2


def test_a_vocabulary_that_grows(base: Path, tmp_path: Path) -> None:
    def grow(tensors: dict[str, torch.Tensor]) -> None:
        for name in (EMBEDDING, HEAD):
            tensors[name] = torch.cat([tensors[name], torch.ones(2, 32)])

    other = write_hf(tuned(small(), grow, vocab=50), tmp_path / "tuned")
    done = refused(base, other, "--modules", "embed_tokens,lm_head,q_proj", code=3)
    assert "model.embed_tokens: 50 rows for the base's 48" in done.err
    assert "lm_head: 50 rows" in done.err
    done = refused(base, other, "--save-modules", "lm_head", code=3)
    assert "name both in --save-modules, or neither" in done.err


def test_an_error_that_is_too_large(base: Path, other: Path, tmp_path: Path) -> None:
    done = refused(base, other, "--max-error", "0.01", "--json", code=1)
    assert done.json["error"]["kind"] == "check-failed"
    assert "more than --max-error 0.01" in done.err
    assert "--rank" in done.err
    error = call("extract-lora", base, other, tmp_path / "a", "--rank", 4, "--json").json["error"]
    assert 0.01 < error < 1
    refused(base, other, "--max-error", error * 0.999, code=1)
    done = call(
        "extract-lora", base, other, tmp_path / "b", "--rank", 4, "--max-error", error, "-q"
    )
    assert done.code == 0


def test_outputs_that_are_taken(base: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("")
    words = ("extract-lora", base, other, out, "--rank", 2, "--quiet")
    assert call(*words).code == 5
    assert (out / "precious").exists()
    assert call(*words, "--force").code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    for inside in (base, other, base / "adapter", other / "adapter", tmp_path):
        assert call("extract-lora", base, other, inside, "--rank", 2, "--force").code == 2
    assert (base / "config.json").exists()


def test_a_damaged_archive(base: Path, tmp_path: Path) -> None:
    """A checksum that does not hold, of data that nothing else could tell from a tuned model's."""
    other = write_meta(tuned(small(), CHANGE), tmp_path / "tuned", 1)
    file = other / "consolidated.00.pth"
    data = bytearray(file.read_bytes())
    weight = tuned(small(), CHANGE).truth["model.layers.0.mlp.down_proj.weight"]
    at = bytes(data).index(weight.numpy().tobytes()[:256])
    data[at + 9] ^= 1
    file.write_bytes(data)
    assert "CRC-32" in refused(base, other, code=3).err


def test_a_disk_that_is_full(
    base: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamatools.engine.targets.free_bytes", lambda out: 1000)
    assert "are needed" in refused(base, other, code=4).err


def test_constants_that_differ_are_said(base: Path, other: Path, tmp_path: Path) -> None:
    edit_json(other / "config.json", rope_theta=1e6, rms_norm_eps=1e-6)
    done = call("extract-lora", base, other, tmp_path / "out", "--rank", 2, "--json")
    assert done.code == 0
    notes = " ".join(done.json["notes"])
    assert "warning: norm_eps is 1e-05 in the base and 1e-06" in notes
    assert "warning: rope_theta" in notes


def test_conflicts_are_told(base: Path, other: Path, tmp_path: Path) -> None:
    edit_json(other / "config.json", vocab_size=4711)
    done = call("extract-lora", base, other, tmp_path / "out", "--rank", 2, "--json")
    assert any("tuned: " in c and "4711" in c for c in done.json["conflicts"])


def test_an_adapter_is_no_model(base: Path, other: Path, tmp_path: Path) -> None:
    assert call("extract-lora", base, other, tmp_path / "out", "--rank", 2, "-q").code == 0
    done = call("extract-lora", base, tmp_path / "out", tmp_path / "o", "--rank", 2)
    assert (done.code, "an adapter, not a model" in done.err) == (3, True)


def test_help_loads_no_torch() -> None:
    script = (
        "import sys; from llamatools.cli import start\n"
        "sys.argv = ['llamatools', 'extract-lora', '--help']\n"
        "try: start.run()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    for option in ("--rank", "--dtype", "--modules", "--save-modules", "--max-error", "--force"):
        assert option in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
