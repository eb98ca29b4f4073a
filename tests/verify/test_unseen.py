"""What logits do not show: rows that no prompt uses, other tokenizers, noise that would excuse all.

Only digests tell, so that `exact` is about digests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sharp import Sharp, Tensors, write
from support.calls import Called, call, edit_json

from llamatools.golden.prompts import drawn_ids

ROOT = Path(__file__).parents[2]
FAST = ("--device", "cpu", "--threads", 1, "--json")
WIDE = Sharp("wide", layers=1, context=8192, scaling=None, vocab=9000)
SMALL = Sharp("small", layers=1, context=256, scaling=None, vocab=512)
TIED = Sharp("tied", layers=1, context=256, scaling=None, vocab=2000, tied=True)
EMBEDDING = "model.embed_tokens.weight"


def _verify(*words: object) -> Called:
    done = call("verify", *words, *FAST)
    if done.code < 2:
        schema = json.loads((ROOT / "schemas" / "verify.json").read_text())
        assert [e.message for e in Draft202012Validator(schema).iter_errors(done.json)] == []
    return done


def _golden(source: Path, *words: object) -> Path:
    out = source.with_name(f"{source.name}.{len(words)}.golden")
    assert call("golden", "create", source, "-o", out, *words, *FAST).code == 0
    return out


def _changed(source: Path, out: Path, change: Callable[[Tensors], None]) -> Path:
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    return out


def _unused(vocab: int) -> torch.Tensor:
    used = {0, vocab - 1}
    for name, n in (("seeded-8", 8), ("seeded-64", 64), ("seeded-512", 512), ("gapped-64", 64)):
        used |= set(drawn_ids(name, n, vocab))
    return torch.tensor([i not in used for i in range(vocab)])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(WIDE, tmp_path_factory.mktemp("wide") / "m")


@pytest.fixture(scope="module")
def zeroed(wide: Path) -> Path:
    """Every row of the embedding is zero that no default prompt uses."""

    def zero(tensors: Tensors) -> None:
        tensors[EMBEDDING][_unused(WIDE.vocab)] = 0

    return _changed(wide, wide.with_name("zeroed"), zero)


def test_rows_that_no_prompt_uses_are_named(wide: Path, zeroed: Path) -> None:
    done = _verify(zeroed, "--against", wide)
    assert done.code == 0 and done.json["overall"]["rms"] == 0 == done.json["overall"]["max_kl"]
    assert done.json["tensors"] == ["embedding.weight"] and not done.json["identical"]
    rows = int(_unused(WIDE.vocab).sum())
    notes = done.json["notes"]
    assert f"embedding.weight differs in {rows:,} rows; no prompt uses them" in " ".join(notes)
    assert any(n.startswith("1 tensor of other digests") for n in notes)
    shown = call("verify", zeroed, "--against", wide, *FAST[:-1]).out
    assert "1 tensor of other digests" in shown and "no prompt uses them" in shown


def test_exact_against_another_is_about_digests(wide: Path, zeroed: Path) -> None:
    done = _verify(zeroed, "--against", wide, "--gate", "exact")
    assert done.code == 1 and all(c["holds"] for c in done.json["checks"])
    assert done.json["problems"] == ["1 tensor of other digests than the other's: embedding.weight"]
    assert _verify(wide, "--against", wide, "--gate", "exact").code == 0


def test_exact_against_a_golden_is_about_its_fingerprint(wide: Path, zeroed: Path) -> None:
    golden = _golden(wide)
    assert _verify(wide, "--golden", golden, "--gate", "exact").code == 0
    done = _verify(zeroed, "--golden", golden, "--gate", "exact")
    assert done.code == 1 and all(c["holds"] for c in done.json["checks"])
    (problem,) = done.json["problems"]
    wanted = call("fingerprint", wide, "--json").json["fingerprints"][0]["fingerprint"]
    assert "fingerprint" in problem and wanted in problem
    lax = _verify(zeroed, "--golden", golden)
    used = WIDE.vocab - int(_unused(WIDE.vocab).sum())
    assert lax.code == 0 and lax.json["tensors"] is None
    assert f"the prompts use {used:,} of 9,000 rows" in " ".join(lax.json["notes"])


def test_exact_needs_a_fingerprint(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    golden = _edited(
        _golden(model), tmp_path / "g", lambda data: data["model"].update(fingerprint=None)
    )
    done = _verify(model, "--golden", golden, "--gate", "exact")
    assert done.code == 1 and all(c["holds"] for c in done.json["checks"])
    assert "no fingerprint" in done.json["problems"][0]
    assert _verify(model, "--golden", golden).code == 0


def _edited(golden: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """A golden file with another document."""
    with safe_open(golden, "pt") as file:
        data = json.loads(file.metadata()["golden"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(data)
    save_file(tensors, out, metadata={"golden": json.dumps(data)})
    return out


def test_only_some_of_the_rows_are_used(wide: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[EMBEDDING][[0, 5, 6]] *= 1 + 2**-6
        assert _unused(WIDE.vocab)[[0, 5, 6]].tolist() == [False, True, True]

    done = _verify(_changed(wide, tmp_path / "m", change), "--against", wide)
    assert done.code == 1
    assert "differs in 3 rows; no prompt uses 2 of them" in " ".join(done.json["notes"])


def test_rows_of_a_tied_embedding_are_all_seen(tmp_path: Path) -> None:
    model = write(TIED, tmp_path / "m")

    def change(tensors: Tensors) -> None:
        tensors[EMBEDDING][_unused(TIED.vocab)] = 0

    done = _verify(_changed(model, tmp_path / "z", change), "--against", model)
    assert done.code == 1 and done.json["tensors"] == ["embedding.weight", "head.weight"]
    assert "no prompt uses" not in " ".join(done.json["notes"])


def test_tensors_of_another_type_differ(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    assert call("convert", model, tmp_path / "w", "--to", "hf", "--dtype", "fp32", "-q").code == 0
    done = _verify(tmp_path / "w", "--against", model)
    assert done.code == 0 and len(done.json["tensors"]) == 12
    assert _verify(tmp_path / "w", "--against", model, "--gate", "exact").code == 1


# --- notes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same weights with two tokenizers."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("two")
    a = write(SMALL, folder / "a")
    shutil.copytree(a, folder / "b")
    shutil.copy(ROOT / "golden" / "tokenizer" / "tokenizer.model", a)
    words = [" ".join(f"w{i * j % 97}x{j}" for j in range(9)) for i in range(200)]
    (folder / "corpus").write_text("\n".join(words))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus"), model_prefix=str(folder / "b" / "tokenizer"), vocab_size=300,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=9,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return a, folder / "b"


def test_another_tokenizer_is_noted_beside_equal_tensors(two: tuple[Path, Path]) -> None:
    done = _verify(two[1], "--against", two[0])
    assert done.code == 0 and done.json["identical"]
    assert "the tokenizer is not the other's" in " ".join(done.json["notes"])
    assert _verify(two[0], "--against", two[0]).json["notes"] == []


def test_notes_of_both_sides_are_kept(two: tuple[Path, Path], tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"][3] *= 1.5

    less = {"layers": 1, "context": 64, "scaling": None, "vocab": 300}
    a = write(Sharp("a", **less), tmp_path / "a")
    shutil.copy(ROOT / "golden" / "tokenizer" / "tokenizer.model", a)
    b = _changed(a, tmp_path / "b", change)
    shutil.copy(two[1] / "tokenizer.model", b)
    notes = " ".join(_verify(b, "--against", a).json["notes"])
    assert "the tokenizer is not the other's" in notes
    assert "the context is 64" in notes
    assert "1 tensor of other digests" in notes and "llamatools' own" not in notes


# --- narrow types ---------------------------------------------------------------------------------


def _one_sign(tensors: Tensors) -> None:
    flat = tensors["model.layers.0.mlp.up_proj.weight"].view(-1)
    flat[7] = -flat[7]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_same_kernels_show_one_sign_in_a_narrow_type(dtype: str, tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    wrong = _changed(model, tmp_path / "w", _one_sign)
    golden = _golden(model, "--dtype", dtype)
    done = _verify(model, "--golden", golden, "--dtype", dtype)
    assert done.code == 0 and done.json["gate"]["name"] == "same"
    assert done.json["overall"]["rms"] == 0
    done = _verify(wrong, "--golden", golden, "--dtype", dtype)
    assert done.code == 1 and done.json["gate"]["name"] == "same"
    assert done.json["fault"]["point"] == "layer 0 mlp"
    assert _verify(wrong, "--against", model, "--dtype", dtype).code == 1


@pytest.mark.parametrize("key", ["torch", "device", "kernels"])
def test_other_kernels_have_the_wide_gate(key: str, tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    golden = _golden(model, "--dtype", "bf16")
    for value in ("another", None):

        def change(data: Any, value: str | None = value) -> None:
            versions = data["generator"]["versions"]
            assert versions.pop(key)
            versions |= {key: value} if value else {}

        held = _edited(golden, tmp_path / f"g{value}", change)
        done = _verify(model, "--golden", held, "--dtype", "bf16")
        assert done.code == 0 and done.json["gate"]["name"] == "bf16"
        assert "hide small defects" in " ".join(done.json["notes"])
        assert "not measured" in " ".join(done.json["notes"])


def test_noise_in_a_file_excuses_nothing(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    wrong = _changed(model, tmp_path / "w", _one_sign)
    noise = {"rms": 10.0, "mean_kl": 10.0, "p95_kl": 10.0, "wider": "float64"}
    golden = _edited(_golden(model), tmp_path / "g", lambda data: data.update(noise=noise))
    done = _verify(wrong, "--golden", golden)
    assert done.code == 1 and done.json["gate"]["rms"] == 2e-5
    assert any("too noisy to judge" in p for p in done.json["problems"])
    done = _verify(model, "--golden", golden)
    assert done.code == 0 and "widens no limit" in " ".join(done.json["notes"])


def test_subnormals_of_fp16_are_held_to_the_gate_of_fp32(tmp_path: Path) -> None:
    """bf16 to fp16 keeps what is in its range: an eps that differs is no rounding."""
    model = write(SMALL, tmp_path / "m")
    golden = _golden(model)
    half = tmp_path / "h"
    assert call("convert", model, half, "--to", "hf", "--dtype", "fp16", "-q").code == 0
    done = _verify(half, "--golden", golden)
    assert done.code == 0 and done.json["gate"]["name"] == "fp32"
    assert 0 < done.json["overall"]["rms"] < 1e-5
    edit_json(half / "config.json", rms_norm_eps=1.1e-5)
    assert _verify(half, "--golden", golden).code == 1
