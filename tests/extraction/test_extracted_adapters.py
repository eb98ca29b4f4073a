"""The adapter of two models: its files say what the report says, and merging it gives the tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, leftovers, tree
from support.tiny import Tiny
from support.tiny_files import read_hf, write_hf, write_meta
from support.vocabularies import sentencepiece_model
from tuned_models import (
    EMBEDDING,
    HEAD,
    LINEAR,
    Change,
    config_of,
    errors,
    exactly,
    in_steps,
    rebuilt,
    shift,
    small,
    together,
    tuned,
    weights_of,
)

import llamatools
from llamatools.extraction import difference

EVERYTHING = together(shift(LINEAR), shift("norm.weight", EMBEDDING, HEAD))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def extract(base: Path, other: Path, out: Path, *more: object, rank: int = 4) -> Any:
    done = call("extract-lora", base, other, out, "--rank", rank, "--json", *more)
    assert done.code == 0, done.err
    assert done.err == ""
    return done.json


def reported(report: Any) -> dict[str, float]:
    return {t["name"]: t["error"] for t in report["tensors"]}


def merge(base: Path, adapter: Path, out: Path, *more: object) -> dict[str, torch.Tensor]:
    done = call("merge-lora", base, adapter, out, "--to", "hf", "--quiet", *more)
    assert done.code == 0, done.err
    return read_hf(out)


def two(model: Tiny, change: Change, folder: Path, **changes: Any) -> tuple[Tiny, Path, Path]:
    """The tuned model, and both of them in files."""
    other = tuned(model, change, **changes)
    return other, write_hf(model, folder / "base"), write_hf(other, folder / "tuned")


@pytest.mark.parametrize("layout", ["hf", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", DTYPES)
def test_merging_gives_the_tuned_model(
    layout: str, dtype: torch.dtype, stored: str, tmp_path: Path
) -> None:
    """Of a base in any layout and type; every tensor within its own reported error."""
    model = small()
    model = tuned(model, lambda tensors: None, dtype=dtype)
    other = tuned(model, EVERYTHING, dtype=torch.float32)
    base = (
        write_hf(model, tmp_path / "base")
        if layout == "hf"
        else write_meta(model, tmp_path / "base", 2)
    )
    report = extract(
        base, write_meta(other, tmp_path / "tuned", 2), tmp_path / "out", "--dtype", stored
    )
    merged = merge(base, tmp_path / "out", tmp_path / "merged", "--dtype", "fp32")
    found = errors(merged, model.truth, other.truth)
    claimed = reported(report)
    assert found.keys() == claimed.keys() == other.truth.keys()
    for name, error in found.items():
        # Beside it, what is merged is rounded to fp32, and a norm saved in full to the base's type.
        rounding = 1e-5 if dtype == torch.float32 or name.endswith(LINEAR) else 0.05
        assert error == pytest.approx(claimed[name], rel=1e-3, abs=rounding), name
    assert 0.2 < claimed["model.layers.0.self_attn.q_proj.weight"] < 0.9


@pytest.mark.parametrize("stored", DTYPES)
def test_errors_are_those_of_the_file(stored: str, tmp_path: Path) -> None:
    """As plain arithmetic finds them in it; and not once a factor has been changed."""
    other, base, path = two(small(), EVERYTHING, tmp_path)
    out = tmp_path / "out"
    report = extract(base, path, out, "--dtype", stored)
    truth = small().truth
    by_hand = errors(rebuilt(out, truth), truth, other.truth)
    assert reported(report) == pytest.approx(by_hand, rel=1e-6)
    lost = sum(
        float((other.truth[n].double() - t).norm()) ** 2 for n, t in rebuilt(out, truth).items()
    )
    whole = sum(float((other.truth[n].double() - t).norm()) ** 2 for n, t in truth.items())
    assert report["error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-6)
    assert report["difference"] == pytest.approx(whole**0.5, rel=1e-6)
    tensors = weights_of(out)
    assert {t.dtype for n, t in tensors.items() if "lora_" in n} == {DTYPES[stored]}
    assert report["parameters"] == sum(t.numel() for t in tensors.values())
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][7, 2] += 0.25
    save_file(tensors, out / "adapter_model.safetensors")
    wrong = errors(rebuilt(out, truth), truth, other.truth)
    assert {n for n in wrong if wrong[n] != pytest.approx(by_hand[n], rel=1e-6)} == {
        "model.layers.1.mlp.up_proj.weight"
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_of_low_rank_is_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tuned(in_steps(small()), lambda tensors: None, dtype=dtype)
    other, base, path = two(model, exactly(LINEAR, rank=3), tmp_path)
    report = extract(base, path, tmp_path / "out", rank=5)
    assert 0 < report["error"] < 2e-7
    assert max(reported(report).values()) < 3e-7
    assert {t["rank"] for t in report["tensors"]} == {3}
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    for name, t in other.truth.items():
        torch.testing.assert_close(merged[name], t, atol=1e-6, rtol=0)
    config = config_of(tmp_path / "out")
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert set(config["rank_pattern"].values()) == {3}
    assert len(config["rank_pattern"]) == 7


def test_another_base_gives_a_larger_error(tmp_path: Path) -> None:
    _, base, path = two(small(), shift(LINEAR, rank=3), tmp_path)
    right = extract(base, path, tmp_path / "out")
    stranger = write_hf(tuned(small(), shift(LINEAR, size=0.01)), tmp_path / "stranger")
    wrong = extract(stranger, path, tmp_path / "wrong")
    assert right["error"] < 1e-6 < 0.05 < wrong["error"]


def test_what_does_not_differ_is_not_there(tmp_path: Path) -> None:
    """And the config names nothing that is not in the file, which merging would refuse."""
    change = shift("0.self_attn.q_proj.weight", "v_proj.weight", "1.input_layernorm.weight")
    other, base, path = two(small(layers=2), change, tmp_path)
    out = tmp_path / "out"
    report = extract(base, path, out)
    config = config_of(out)
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj", "v_proj"]
    assert config["modules_to_save"] == ["model.layers.1.input_layernorm"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert len(weights_of(out)) == 3 * 2 + 1
    assert len(report["tensors"]) == 4
    assert report["equal"] == len(other.truth) - 4
    merged = merge(base, out, tmp_path / "merged")
    claimed = reported(report)
    for name, t in small().truth.items():
        assert torch.equal(merged[name], t) == (name not in claimed)


def test_norms_alone(tmp_path: Path) -> None:
    other, base, path = two(small(), shift("model.norm.weight"), tmp_path)
    report = extract(base, path, tmp_path / "out")
    assert (report["error"], report["error_of_factors"]) == (0, 0)
    config = config_of(tmp_path / "out")
    assert config["modules_to_save"] == ["model.norm"]  # "norm" would be every norm of PEFT's
    assert config["target_modules"] == "dummy-target-modules"
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    assert all(torch.equal(merged[n], t) for n, t in other.truth.items())


def test_a_rank_larger_than_the_matrices(tmp_path: Path) -> None:
    other, base, path = two(small(), shift(LINEAR), tmp_path)
    report = extract(base, path, tmp_path / "out", rank=36)
    assert report["error"] < 2e-7
    config = config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (36, 36)
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert config["rank_pattern"] == {
        "q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32, "gate_proj": 32, "up_proj": 32,
        "down_proj": 32,
    }  # fmt: skip
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    assert max(errors(merged, small().truth, other.truth).values()) < 1e-5


def test_the_rank_that_an_error_needs(tmp_path: Path) -> None:
    _, base, path = two(small(), shift(LINEAR), tmp_path)
    report = extract(base, path, tmp_path / "out", rank=2)
    for t in report["tensors"]:
        ranks = {e["error"]: e["rank"] for e in t["rank_for_error"]}
        assert ranks[0.5] <= ranks[0.2] <= ranks[0.1] <= ranks[0.01] <= min(t["shape"])
    needed = max(e["rank"] for t in report["tensors"] for e in t["rank_for_error"][:1])
    assert needed > 2
    deeper = extract(base, path, tmp_path / "deeper", rank=needed)
    assert report["error"] > 0.5 > max(reported(deeper).values())
    less = extract(base, path, tmp_path / "less", rank=needed - 1)
    assert max(reported(less).values()) > 0.5


# --- head and embedding ---------------------------------------------------------------------------


def _tie(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(HEAD, None)


def _untie(tensors: dict[str, torch.Tensor]) -> None:
    tensors.setdefault(HEAD, tensors[EMBEDDING].clone())


BOTH = ["embed_tokens", "lm_head"]
TIES: list[tuple[str, bool, Change, bool, list[str], bool]] = [
    # name, base tied?, change, tuned tied?, what is saved, does the head stay the embedding?
    ("both", True, shift(EMBEDDING), True, BOTH, True),
    ("base, and a new head", True, together(_untie, shift(HEAD)), False, ["lm_head"], False),
    ("base, and a new embedding", True, together(_untie, shift(EMBEDDING)), False,
     ["embed_tokens"], False),
    ("base, and both are new", True, together(_untie, shift(EMBEDDING, HEAD)), False, BOTH, False),
    ("tuned", False, _tie, True, ["lm_head"], False),
    ("tuned, to a new embedding", False, together(shift(EMBEDDING), _tie), True, BOTH, False),
    ("neither", False, shift(HEAD), False, ["lm_head"], False),
    ("neither, both are new", False, shift(EMBEDDING, HEAD), False, BOTH, False),
]  # fmt: skip


@pytest.mark.parametrize("case", TIES, ids=[t[0] for t in TIES])
def test_tied_heads(case: tuple[str, bool, Change, bool, list[str], bool], tmp_path: Path) -> None:
    _, tied_before, change, tied_after, saved, keeps = case
    model = small(tied=tied_before)
    other, base, path = two(model, together(shift(LINEAR), change), tmp_path, tied=tied_after)
    report = extract(base, path, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["modules_to_save"] == saved
    assert config.get("ensure_weight_tying", False) == keeps
    assert {
        f"{m}.weight" for m in ("model.embed_tokens", "lm_head") if m.endswith(tuple(saved))
    } == {
        n.removeprefix("base_model.model.") for n in weights_of(tmp_path / "out") if "lora" not in n
    }
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    head = other.truth.get(HEAD, other.truth[EMBEDDING])
    assert torch.equal(merged[EMBEDDING], other.truth[EMBEDDING])
    assert torch.equal(merged.get(HEAD, merged[EMBEDDING]), head)
    assert (HEAD not in merged) == (tied_before and tied_after)
    assert report["error_of_factors"] > 0.1


def test_factors_of_embedding_and_head(tmp_path: Path) -> None:
    other, base, path = two(small(), shift(EMBEDDING, HEAD, LINEAR, rank=3), tmp_path)
    report = extract(base, path, tmp_path / "out", "--modules", "embed_tokens,lm_head,down_proj")
    found = {t["name"]: t["stored"] for t in report["tensors"]}
    assert {n for n, how in found.items() if how == "factors"} == {
        EMBEDDING,
        HEAD,
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    }
    assert set(found.values()) == {"factors", "left out"}
    assert config_of(tmp_path / "out")["target_modules"] == ["embed_tokens", "down_proj", "lm_head"]
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    claimed = reported(report)
    assert claimed[EMBEDDING] < 1e-6
    for name in found:
        error = errors(merged, small().truth, other.truth)[name]
        assert error == pytest.approx(claimed[name], abs=1e-5)
        assert (error > 0.99) == (found[name] == "left out")


def test_factors_of_a_tied_embedding(tmp_path: Path) -> None:
    other, base, path = two(small(tied=True), shift(EMBEDDING, rank=3), tmp_path)
    extract(base, path, tmp_path / "out", "--modules", "embed_tokens")
    config = config_of(tmp_path / "out")
    assert config["target_modules"] == BOTH
    assert config["ensure_weight_tying"] is True
    tensors = weights_of(tmp_path / "out")
    a, b = (tensors[f"base_model.model.model.embed_tokens.lora_embedding_{x}"] for x in "AB")
    assert torch.equal(tensors["base_model.model.lm_head.lora_A.weight"], b.T)
    assert torch.equal(tensors["base_model.model.lm_head.lora_B.weight"], a.T)
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    assert merged.keys() == other.truth.keys()
    torch.testing.assert_close(merged[EMBEDDING], other.truth[EMBEDDING], atol=1e-6, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [424, 400])
def test_another_vocabulary(tied: bool, rows: int, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        shift(LINEAR)(tensors)
        for name in {EMBEDDING, HEAD} & tensors.keys():
            more = torch.randn(10, tensors[name].shape[1])
            tensors[name] = torch.cat([tensors[name], more])[:rows]

    model = small(vocab=414, style="llama-2", kv_heads=4, tied=tied)
    other, base, path = two(model, change, tmp_path, vocab=rows)
    (path / "tokenizer.model").write_bytes(sentencepiece_model(400))
    (path / "tokenizer_config.json").write_text("{}")
    (path / "README.md").write_text("# not a part of it")
    report = extract(base, path, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.model",
        "tokenizer_config.json",
    }  # fmt: skip
    assert f"resize_token_embeddings({rows})" in " ".join(report["notes"])
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    assert merged.keys() == other.truth.keys()
    for name in {EMBEDDING, HEAD} & merged.keys():
        assert torch.equal(merged[name], other.truth[name])
    left = extract(base, path, tmp_path / "left", "--save-modules", "none")
    assert {t["name"] for t in left["tensors"] if t["stored"] == "left out"} == {
        n for n in (EMBEDDING, HEAD) if n in other.truth
    }
    assert {p.name for p in (tmp_path / "left").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    rest = {t["name"]: t for t in left["tensors"]}[EMBEDDING]
    assert rest["error"] == 1
    assert "which is left out" in " ".join(left["notes"])
    assert merge(base, tmp_path / "left", tmp_path / "again")[EMBEDDING].shape[0] == 414


# --- biases, and what is left out -----------------------------------------------------------------

BIASED = {"attention_bias": True, "mlp_bias": True}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_biases(dtype: str, tmp_path: Path) -> None:
    """Those of modules whose weights differ, and those of others; none is missing in the file."""
    model = small(**BIASED)
    change = shift("0.self_attn.q_proj.bias", "1.mlp.up_proj.bias", "q_proj.weight", "norm.weight")
    other, base, path = two(model, change, tmp_path)
    report = extract(base, path, tmp_path / "out", "--dtype", dtype, rank=32)
    config = config_of(tmp_path / "out")
    assert config["lora_bias"] is True
    assert config["rank_pattern"].keys() == config["alpha_pattern"].keys()
    biases = [n for n in weights_of(tmp_path / "out") if n.endswith("lora_B.bias")]
    assert len(biases) == 2 * 7
    stored = {t["name"]: t["stored"] for t in report["tensors"]}
    assert [n for n, how in stored.items() if how == "bias"] == [
        "model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.bias",
    ]  # fmt: skip
    by_hand = errors(rebuilt(tmp_path / "out", model.truth), model.truth, other.truth)
    assert reported(report) == pytest.approx(by_hand, rel=1e-6)
    assert report["error"] < (0.01 if dtype == "bf16" else 1e-6)
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    for name, t in other.truth.items():
        torch.testing.assert_close(merged[name], t, atol=1e-2 if dtype == "bf16" else 1e-6, rtol=0)


def test_biases_alone(tmp_path: Path) -> None:
    model = small(attention_bias=True)
    other, base, path = two(model, shift("_proj.bias"), tmp_path)
    report = extract(base, path, tmp_path / "out")
    assert {t["stored"] for t in report["tensors"]} == {"bias"}
    assert report["error_of_factors"] == 0
    assert config_of(tmp_path / "out")["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    for name, t in other.truth.items():
        torch.testing.assert_close(merged[name], t, atol=1e-6, rtol=0)
    assert "cannot merge it" in " ".join(report["notes"])


OUT: list[tuple[str, list[str], set[str]]] = [
    ("nothing saved", ["--save-modules", "none"], {"norm", "embed", "lm_head", "bias"}),
    ("one saved", ["--save-modules", "lm_head,bias"], {"norm", "embed"}),
    ("some norms", ["--save-modules", "input_layernorm,embed_tokens"],
     {"post_attention_layernorm", "model.norm", "lm_head", "bias"}),
    ("one layer's", ["--save-modules", "bias,lm_head,embed_tokens,norm,layers.0.input_layernorm"],
     {"post_attention_layernorm", "1.input_layernorm"}),
    ("some factors", ["--modules", "q_proj,layers.1.mlp.up_proj"],
     {"k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "0.mlp.up_proj"}),
    ("factors of the embedding", ["--modules", "embed_tokens", "--save-modules", "bias"],
     {"proj", "norm", "lm_head"}),
]  # fmt: skip


@pytest.mark.parametrize("case", OUT, ids=[c[0] for c in OUT])
def test_what_is_left_out_is_said(case: tuple[str, list[str], set[str]], tmp_path: Path) -> None:
    _, options, out = case
    model = small(**BIASED)
    everything = together(EVERYTHING, shift("_proj.bias"))
    other, base, path = two(model, everything, tmp_path)
    report = extract(base, path, tmp_path / "out", *options)
    left = {t["name"] for t in report["tensors"] if t["stored"] == "left out"}
    assert left == {n for n in other.truth if any(part in n for part in out)}
    by_hand = errors(rebuilt(tmp_path / "out", model.truth), model.truth, other.truth)
    assert reported(report) == pytest.approx(by_hand, rel=1e-6)
    assert all(by_hand[n] == 1 for n in left)
    assert any("biases are left out" in n for n in report["notes"]) == any(
        n.endswith("bias") for n in left
    )
    merged = merge(base, tmp_path / "out", tmp_path / "merged")
    for name in left:
        assert torch.equal(merged[name], model.truth[name])


# --- the run itself -------------------------------------------------------------------------------


def test_the_same_bytes_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layout, the blocks read, the number of threads and the folder's place."""
    model = small()
    other, base, path = two(model, EVERYTHING, tmp_path)
    extract(base, path, tmp_path / "out", "--jobs", 1)
    first = tree(tmp_path / "out")
    monkeypatch.setattr(difference, "_BLOCK", 64)
    again = write_meta(model, tmp_path / "elsewhere" / "base", 2)
    extract(again, write_meta(other, tmp_path / "meta", 2), tmp_path / "second", "--jobs", 5)
    assert tree(tmp_path / "second") == first


def test_an_adapter_of_pefts_comes_back(tmp_path: Path) -> None:
    """Merged into the golden checkpoint, and taken out again: what PEFT wrote, rank for rank."""
    golden = Path(__file__).parents[2] / "golden"
    base, adapter = golden / "llama3-gqa/mp2", golden / "llama3-gqa-lora"
    merge(base, adapter, tmp_path / "merged", "--dtype", "fp32")
    report = extract(base, tmp_path / "merged", tmp_path / "out", rank=6)
    assert report["error"] < 1e-6
    assert all(t["stored"] == "factors" for t in report["tensors"])
    old, new = weights_of(adapter), weights_of(tmp_path / "out")
    alpha = config_of(adapter)["lora_alpha"], config_of(adapter)["r"]
    assert old.keys() == new.keys()
    for a in (n for n in old if "lora_A" in n):
        b = a.replace("lora_A", "lora_B")
        scale = 24 / 6 if "layers.1.mlp.down_proj" in a else alpha[0] / alpha[1]
        torch.testing.assert_close(new[b] @ new[a], scale * old[b] @ old[a], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_stopped_on_the_way(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base, path = two(small(), EVERYTHING, tmp_path)
    before = torch.get_num_threads()
    calls: list[object] = []

    def fail(*arguments: object) -> float:
        calls.append(arguments)
        if len(calls) == 5:
            raise stop
        return 0.0

    monkeypatch.setattr("llamatools.extraction.work.residual", fail)
    done = call("extract-lora", base, path, tmp_path / "out", "--rank", 4, "-q")
    assert done.code in (130, 70)
    assert len(calls) == 5
    assert leftovers(tmp_path / "out") == []
    assert torch.get_num_threads() == before


def test_wide_numbers_come_first_in_the_file(tmp_path: Path) -> None:
    """So that each tensor begins at a multiple of its own elements' size."""
    model = tuned(small(), lambda tensors: None, dtype=torch.bfloat16)
    _, base, path = two(model, EVERYTHING, tmp_path)
    extract(base, path, tmp_path / "out")
    data = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    kinds = [t["dtype"] for t in header.values()]
    assert kinds == sorted(kinds, reverse=True)  # F32 ..., BF16 ...
    assert set(kinds) == {"F32", "BF16"}


def test_the_library(tmp_path: Path) -> None:
    _, base, path = two(small(), shift(LINEAR, rank=3), tmp_path)
    report = llamatools.extract_lora(base, path, tmp_path / "out", llamatools.Extract(rank=4))
    files = {f["name"]: f for f in report["files"]}  # type: ignore[attr-defined]
    assert files.keys() == {p.name for p in (tmp_path / "out").iterdir()}
    assert files["adapter_model.safetensors"]["bytes"] == (
        (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    )
    assert config_of(tmp_path / "out")["base_model_name_or_path"] == "base"


def test_what_people_see(tmp_path: Path) -> None:
    _, base, path = two(small(), EVERYTHING, tmp_path)
    done = call("extract-lora", base, path, tmp_path / "out", "--rank", 4, "--save-modules", "none")
    assert done.code == 0
    for words in ("base to tuned", "rank 4, 2 files", "q_proj", "left out", "of all that differs"):
        assert words in " ".join(done.out.split())
    assert "extract: 100%" in done.err
    quiet = call("extract-lora", base, path, tmp_path / "q", "--rank", 4, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
