"""What a merge leaves and prints: a plain model, and a manifest that says what it was made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.calls import call, edit_json, tree
from support.lora import PREFIX, factors, plain, write_adapter
from support.schemas import check
from support.tiny import Tiny, finite
from support.tiny_files import read_hf, write_hf, write_meta

import llamatools

UNTIED, TIED = finite(Tiny()), finite(Tiny(tied=True))


def bases(model: Tiny, tmp_path: Path) -> Iterator[Path]:
    yield write_hf(model, tmp_path / "hf")
    yield write_meta(model, tmp_path / "meta-1", 1)
    yield write_meta(model, tmp_path / "meta-2", 2)


@pytest.mark.parametrize("model", [UNTIED, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("module", ["q_proj", "embed_tokens", "lm_head"])
@pytest.mark.parametrize("to", ["hf", "meta", "safetensors"])
def test_the_bases_fingerprint_is_the_one_that_fingerprint_prints(
    model: Tiny, module: str, to: str, tmp_path: Path
) -> None:
    """Whatever is changed, cast, untied or replaced on the way."""
    tensors = factors(model, "q_proj")
    if module != "q_proj":
        tensors = {
            f"{PREFIX}model.embed_tokens.lora_embedding_A": torch.ones(2, model.vocab),
            f"{PREFIX}model.embed_tokens.lora_embedding_B": torch.ones(model.dim, 2),
        }
    if module == "lm_head":
        tensors = {f"{PREFIX}lm_head.weight": torch.ones(model.vocab, model.dim)}
    adapter = write_adapter(
        tmp_path / "adapter",
        tensors,
        target_modules=[module],
        modules_to_save=["lm_head"] if module == "lm_head" else None,
    )
    for i, base in enumerate(bases(model, tmp_path)):
        wanted = llamatools.fingerprint(base).digest
        for dtype in ("keep", "fp32"):
            out = tmp_path / f"out-{i}-{dtype}"
            words = ("--to", to, "--dtype", dtype, "--json")
            done = call("merge-lora", base, adapter, out, *words)
            assert done.code == 0, done.err
            assert done.json["merge"]["base_fingerprint"] == wanted
            assert done.json["fingerprint"] == llamatools.fingerprint(out).digest != wanted
            assert not done.json["lossless"]


def test_reports_obey_their_schemas(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "base")
    a, b = plain(UNTIED, tmp_path / "a"), plain(UNTIED, tmp_path / "b", lora_alpha=6)
    for words in ((a,), (a, b), (a, b, "--weights", "0.5,-2")):
        out = tmp_path / f"out-{len(words)}-{len(words[-1:])}-{'w' if len(words) > 2 else ''}"
        adapters = [w for w in words if isinstance(w, Path)]
        rest = [w for w in words if not isinstance(w, Path)]
        plan = call("merge-lora", base, *adapters, out, *rest, "--dry-run", "--json")
        assert check("plan", plan.json) == []
        assert not out.exists()
        done = call("merge-lora", base, *adapters, out, *rest, "--json")
        assert check("manifest", done.json) == []
        assert done.json == json.loads((out / "llamatools.json").read_text())
        named = [x["name"] for x in done.json["merge"]["adapters"]]
        assert named == [p.name for p in adapters]
    weights = [x["weight"] for x in done.json["merge"]["adapters"]]
    assert weights == [0.5, -2.0]
    assert [x["scales"] for x in done.json["merge"]["adapters"]] == [[2.0], [3.0]]


def test_the_output_is_a_plain_model(tmp_path: Path) -> None:
    base, adapter = write_hf(UNTIED, tmp_path / "base"), plain(UNTIED, tmp_path / "adapter")
    assert call("merge-lora", base, adapter, tmp_path / "out").code == 0
    assert sorted(tree(tmp_path / "out")) == ["config.json", "llamatools.json", "model.safetensors"]


def test_what_the_output_type_cannot_hold_is_told(tmp_path: Path) -> None:
    """A change of a thousandth is mostly lost in bf16; in fp32 it is not."""
    base = write_hf(UNTIED, tmp_path / "base")
    small = {n: t * (0.1 if "lora_B" in n else 1) for n, t in factors(UNTIED, "q_proj").items()}
    adapter = write_adapter(tmp_path / "adapter", small, target_modules=["q_proj"])
    done = call("merge-lora", base, adapter, tmp_path / "bf16")
    assert "warning: rounding took" in done.out
    assert "--dtype fp32" in done.out
    manifest = json.loads((tmp_path / "bf16/llamatools.json").read_text())["merge"]
    before, after = read_hf(base), read_hf(tmp_path / "bf16")
    for entry in manifest["tensors"]:
        layer = entry["name"].split(".")[1]
        module = f"model.layers.{layer}.self_attn.q_proj"
        a, b = (small[f"{PREFIX}{module}.lora_{x}.weight"].double() for x in "AB")
        change = 2 * b @ a
        lost = after[f"{module}.weight"].double() - before[f"{module}.weight"].double() - change
        assert entry["change"] == pytest.approx(float(change.norm()), rel=1e-5)
        assert entry["lost"] == pytest.approx(float(lost.norm() / change.norm()), rel=1e-4)
    assert 0.1 < manifest["lost"] < 1
    wide = call("merge-lora", base, adapter, tmp_path / "fp32", "--dtype", "fp32", "--json")
    assert wide.json["merge"]["lost"] < 1e-4


def test_an_untrained_adapter_is_told(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "base")
    zero = {n: t * (0 if "lora_B" in n else 1) for n, t in factors(UNTIED, "q_proj").items()}
    adapter = write_adapter(tmp_path / "adapter", zero, target_modules=["q_proj"])
    done = call("merge-lora", base, adapter, tmp_path / "out")
    assert done.code == 0
    assert "nothing changes" in done.out
    before, after = read_hf(base), read_hf(tmp_path / "out")
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_another_base_than_the_adapters_is_told(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "Llama-Tiny")
    for i, (name, told) in enumerate(
        {"someone/llama-tiny": False, "/home/me/Llama-Tiny/": False, "x/Llama-Other": True}.items()
    ):
        adapter = plain(UNTIED, tmp_path / f"a{i}", base_model_name_or_path=name)
        done = call("merge-lora", base, adapter, tmp_path / f"out{i}", "--json")
        assert any("was trained on" in c for c in done.json["conflicts"]) is told
    edit_json(base / "config.json", _name_or_path="x/Llama-Other")
    done = call("merge-lora", base, adapter, tmp_path / "out", "--json")
    assert done.json["conflicts"] == []


def test_factors_that_the_config_does_not_name_are_merged_and_told(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "base")
    adapter = plain(UNTIED, tmp_path / "adapter", target_modules=["q_proj"])
    done = call("merge-lora", base, adapter, tmp_path / "out", "--json")
    assert any("does not name" in n and "v_proj" in n for n in done.json["notes"])
    assert len(done.json["merge"]["tensors"]) == 4


def test_targets_that_cannot_be_matched_in_bounded_time_are_told(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "base")
    pattern = r"(?!lm_head).*\.(q_proj|v_proj)"
    adapter = plain(UNTIED, tmp_path / "adapter", target_modules=pattern)
    done = call("merge-lora", base, adapter, tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert any("targets were not checked" in n for n in done.json["notes"])


def test_patterns_that_would_run_for_years_end_at_once(tmp_path: Path) -> None:
    base = write_hf(UNTIED, tmp_path / "base")
    adapter = plain(UNTIED, tmp_path / "adapter", rank_pattern={"(([a-z.0-9_]+)+)+!": 7})
    done = call("merge-lora", base, adapter, tmp_path / "out")
    assert done.code == 0, done.err


def test_runs_do_not_depend_on_workers_or_memory(tmp_path: Path) -> None:
    model = finite(Tiny(heads=8, kv_heads=2, head_dim=20, ffn=700, vocab=900))
    base = write_meta(model, tmp_path / "base", 2)
    adapter = plain(model, tmp_path / "adapter")
    trees = []
    for i, words in enumerate((("--jobs", "1"), ("--jobs", "4"), ("--max-memory", "4MB"))):
        done = call("merge-lora", base, adapter, tmp_path / str(i), "--to", "hf", *words)
        assert done.code == 0, done.err
        trees.append(tree(tmp_path / str(i)))
    assert trees[0] == trees[1] == trees[2]
