"""What can be asked about: checkpoints of any layout, bare configs, names; and what cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, edit_json
from support.schemas import check
from support.sparse import Sizes, write_sparse_hf, write_sparse_meta
from support.tiny import Tiny
from support.tiny_files import hf_config, meta_params, write_hf, write_meta

from llamatools.memory.registry import names
from llamatools.memory.source import read_subject

S405 = Sizes(16384, 126, 128, 8, 53248, 128256)


def _ask(source: object, *more: object) -> Any:
    seen = call("inspect", source, "--kv-memory", "--json", *more)
    assert seen.code == 0, seen.err
    return seen.json


def _figures(report: Any) -> Any:
    return report["parameters"]["by_group"], report["weights"]["loaded"], report["kv"]


@pytest.mark.parametrize(
    "model",
    [
        Tiny(),
        Tiny(style="llama-2", kv_heads=8, attention_bias=True, norm_dtype=torch.float32),
        Tiny(style="llama-3.2", tied=True),
    ],
    ids=str,
)
def test_every_layout_says_the_same(model: Tiny, tmp_path: Path) -> None:
    hf = write_hf(model, tmp_path / "hf")
    asked = [hf, hf / "model.safetensors", write_meta(model, tmp_path / "meta", 2)]
    for to, more in (("safetensors", ()), ("hf", ("--weights", "bin"))):
        assert call("convert", hf, tmp_path / f"as-{to}", "--to", to, *more).code == 0
        asked.append(tmp_path / f"as-{to}")
    reports = [_ask(source) for source in asked]
    assert all(_figures(r) == _figures(reports[0]) for r in reports)
    truth = sum(t.nbytes for t in model.truth.values())
    assert reports[0]["weights"]["loaded"] == {"value": truth, "kind": "exact"}
    assert reports[0]["weights"]["stored"]["total"]["value"] == truth
    count = sum(t.numel() for t in model.truth.values())
    assert reports[0]["parameters"]["unique"]["value"] == count
    plain = call("inspect", hf, "--json").json["parameters"]
    assert plain["unique"] == reports[0]["parameters"]["unique"]["value"]
    groups = {g: n["value"] for g, n in reports[0]["parameters"]["by_group"].items()}
    assert plain["by_group"] == groups


@pytest.mark.parametrize("model", [Tiny(), Tiny(style="llama-3.2", tied=True)], ids=str)
def test_bare_configs(model: Tiny, tmp_path: Path) -> None:
    whole = _ask(write_hf(model, tmp_path / "hf"))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(hf_config(model)))
    assert _figures(_ask(config)) == _figures(whole)
    (tmp_path / "hf" / "model.safetensors").unlink()
    alone = _ask(tmp_path / "hf")
    assert _figures(alone) == _figures(whole)
    assert "no weights in the folder: by config.json alone" in alone["notes"]
    params = tmp_path / "other.json"
    params.write_text(json.dumps(meta_params(model, model.kv_heads)))
    found = _ask(params)
    if not model.tied:  # which a params.json of unlisted sizes does not say
        assert _figures(found) == _figures(whole)
    assert found["weights"]["stored"] is None
    assert found["source"]["kind"] == "config"


@pytest.mark.parametrize("name", [*names(), "LLAMA-3.1-8B"])
def test_names(name: str) -> None:
    report = _ask(name)
    assert report["source"]["kind"] == "name"
    assert report["model"]["official"]
    assert report["contexts"][-1]["context"] == report["architecture"]["context"]


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: Any) -> None:
    write_hf(Tiny(), tmp_path / "llama-3.1-8b")
    monkeypatch.chdir(tmp_path)
    assert _ask("llama-3.1-8b")["source"]["kind"] == "checkpoint"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("llama-3.1-7b", "did you mean llama-3"),
        ("nonsense", "names are llama-1-7b"),
        ("/nowhere/at/all", "no such file or folder"),
        ("./org/name", "no such file or folder"),
    ],
)
def test_what_is_nothing(source: str, words: str) -> None:
    seen = call("inspect", source, "--kv-memory")
    assert seen.code == 3
    assert words in seen.err


def test_tensors_win(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "hf")
    before = _figures(_ask(source))
    edit_json(source / "config.json", vocab_size=12345, intermediate_size=99)
    report = _ask(source)
    assert _figures(report) == before
    assert sum("the tensors are believed" in w for w in report["warnings"]) == 2


def test_copies_of_heads_are_said(tmp_path: Path) -> None:
    model = Tiny(kv_heads=2)
    report = _ask(write_meta(model, tmp_path / "meta", 8, stored_kv_heads=2))
    (warning,) = report["warnings"]
    assert "each key-value head 4 times" in warning
    assert report["parameters"]["stored"]["value"] > report["parameters"]["unique"]["value"]
    assert report["architecture"]["n_kv_heads"] == 2


def test_a_tied_head_in_the_files_is_said(tmp_path: Path) -> None:
    model = Tiny(style="llama-3.2", tied=True)
    report = _ask(write_meta(model, tmp_path / "meta", 1))
    head = model.vocab * model.dim
    assert report["parameters"]["stored"]["value"] == report["parameters"]["unique"]["value"] + head
    assert any("stored twice" in n for n in report["notes"])


def _gptq(folder: Path) -> int:
    """A checkpoint as GPTQ leaves it; the bytes of its tensors."""
    model = Tiny(vocab=64)
    tensors = {}
    for name, t in model.truth.items():
        if "proj" in name:
            rows, columns = t.shape
            at = name.removesuffix("weight")
            tensors[at + "qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
            tensors[at + "scales"] = torch.zeros(1, rows, dtype=torch.float16)
        else:
            tensors[name] = t
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = hf_config(model) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(t.nbytes for t in tensors.values())


def test_packed_weights(tmp_path: Path) -> None:
    size = _gptq(tmp_path / "q")
    report = _ask(tmp_path / "q", "--gpu", "t4")
    assert report["weights"]["loaded"] == {"value": size, "kind": "exact"}
    assert any("packed integer weights (gptq)" in w for w in report["warnings"])
    count = sum(t.numel() for t in Tiny(vocab=64).truth.values())
    assert report["parameters"]["unique"]["value"] == count
    assert report["contexts"][0]["per_gpu"]["weights"]["kind"] == "estimate"
    assert abs(report["contexts"][0]["per_gpu"]["weights"]["value"] - size) < 100
    (tmp_path / "q" / "model.safetensors").unlink()
    alone = _ask(tmp_path / "q" / "config.json")
    assert alone["weights"]["loaded"]["kind"] == "estimate"
    assert any("quantised (gptq)" in w for w in alone["warnings"])


def _vision(folder: Path) -> Path:
    """A small Llama 3.2 vision model, as transformers would save it."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    config = MllamaConfig(
        text_config={
            "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
            "cross_attention_layers": [3], "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 3, "num_global_layers": 2,
            "attention_heads": 2, "intermediate_size": 24, "image_size": 28, "patch_size": 14,
            "vision_output_dim": 48, "intermediate_layers_indices": [0, 1],
        },
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config).to(torch.bfloat16)
    folder.mkdir()
    model.save_pretrained(folder)
    return folder


def test_a_vision_checkpoint(tmp_path: Path) -> None:
    """Not converted, and said to be so; its memory is by its headers, and exact."""
    folder = _vision(tmp_path / "v")
    assert call("inspect", folder).code == 3
    assert call("convert", folder, tmp_path / "out", "--to", "meta").code == 3
    report = _ask(folder)
    assert report["warnings"] == []
    stored = report["weights"]["stored"]["total"]
    assert report["weights"]["loaded"] == stored
    assert report["parameters"]["unique"] == report["parameters"]["stored"]
    assert report["kv"]["per_image"]["value"] == 4 * 5 * 2 * 2 * 8 * 2
    assert report["parameters"]["unique"]["kind"] == "exact"
    _edit_text(folder, vocab_size=65)
    near = _ask(folder)
    assert any("tensors are believed" in w for w in near["warnings"])
    unique = near["parameters"]["unique"]
    assert unique["kind"] == "estimate"
    assert f"{report['parameters']['unique']['value']:,} elements" in unique["source"]
    assert near["parameters"]["stored"] == report["parameters"]["stored"]
    assert check("memory", near) == []
    assert f"parameters  ~{unique['value']:,} (" in call("inspect", folder, "--kv-memory").out


def _edit_text(folder: Path, **changes: object) -> None:
    config = folder / "config.json"
    edit_json(config, text_config=json.loads(config.read_text())["text_config"] | changes)


def test_a_config_of_another_vision_model(tmp_path: Path) -> None:
    folder = _vision(tmp_path / "v")
    held = _ask(folder)["parameters"]["unique"]["value"]
    for vocab in (12345, 64):
        _edit_text(folder, vocab_size=vocab)
        seen = call("inspect", folder, "--kv-memory")
        assert seen.code == (3 if vocab == 12345 else 0)
        assert (f"the tensors hold {held:,} elements, and the config makes" in seen.err) is (
            vocab == 12345
        )
        assert ("the config belongs to another model" in seen.err) is (vocab == 12345)


def _released_mixture(**changes: object) -> dict[str, Any]:
    """Scout's config.json, as far as it matters."""
    text = {
        "model_type": "llama4_text", "attention_bias": False, "attention_chunk_size": 8192,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 8192,
        "intermediate_size_mlp": 16384, "interleave_moe_layer_step": 1,
        "max_position_embeddings": 10485760, "no_rope_layers": [], "num_attention_heads": 40,
        "num_experts_per_tok": 1, "num_hidden_layers": 48, "num_key_value_heads": 8,
        "num_local_experts": 16, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "torch_dtype": "bfloat16", "use_qk_norm": True, "vocab_size": 202048, **changes,
    }  # fmt: skip
    vision = {
        "model_type": "llama4_vision_model", "hidden_size": 1408, "image_size": 336,
        "intermediate_size": 5632, "num_attention_heads": 16, "num_hidden_layers": 34,
        "patch_size": 14, "projector_input_dim": 4096, "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    }  # fmt: skip
    return {
        "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
        "text_config": text, "vision_config": vision, "tie_word_embeddings": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "llama-4-scout"),
        ({"no_rope_layers": [1, 1, 1, 0] * 12, "moe_layers": list(range(48))}, "llama-4-scout"),
        ({"num_local_experts": 128, "interleave_moe_layer_step": 2}, "llama-4-maverick"),
    ],
)
def test_configs_of_mixtures(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(_released_mixture(**changes)))
    found, named = _ask(config), _ask(name)
    assert _figures(found) == _figures(named)
    assert found["model"] == named["model"]
    config.write_text(json.dumps(_released_mixture(num_local_experts=None, no_rope_layers="x")))
    seen = call("inspect", config, "--kv-memory")
    assert seen.code == 3
    assert "num_local_experts is missing" in seen.err


def test_a_mixture_checkpoint(tmp_path: Path) -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=8, intermediate_size=32, intermediate_size_mlp=64, vocab_size=96,
        num_local_experts=2, interleave_moe_layer_step=2, attention_chunk_size=16,
        pad_token_id=None,
    )  # fmt: skip
    model = Llama4ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "m")
    assert call("inspect", tmp_path / "m").code == 3
    report = _ask(tmp_path / "m", "--context", "16,64", "--engine", "vllm")
    assert report["warnings"] == []
    count = sum(p.numel() for p in model.parameters())
    assert report["parameters"]["unique"]["value"] == count
    assert report["weights"]["loaded"] == {"value": 2 * count, "kind": "exact"}
    assert [c["kv"]["kind"] for c in report["contexts"]] == ["exact", "estimate"]


def test_fp8_weights(tmp_path: Path) -> None:
    """Scales beside them are no parameters, and cost bytes."""
    model = Tiny()
    tensors = dict(model.truth)
    for name in [n for n in tensors if "proj" in n]:
        tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.float8_e4m3fn)
        tensors[name + "_scale"] = torch.zeros(tensors[name].shape[0], 1, dtype=torch.bfloat16)
    folder = tmp_path / "f"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = hf_config(model) | {"quantization_config": {"quant_method": "compressed-tensors"}}
    (folder / "config.json").write_text(json.dumps(config))
    report = _ask(folder)
    assert report["weights"]["loaded"]["value"] == sum(t.nbytes for t in tensors.values())
    assert report["parameters"]["unique"]["value"] == sum(t.numel() for t in model.truth.values())
    assert any("quantised weights (compressed-tensors)" in w for w in report["warnings"])


def test_configs_of_other_models_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for wrong in ({"model_type": "gpt2"}, {"model_type": "qwen3", "architectures": ["Qwen3"]}):
        config.write_text(json.dumps(hf_config(Tiny()) | wrong))
        assert call("inspect", config, "--kv-memory").code == 3
    config.write_text("{}")
    seen = call("inspect", config, "--kv-memory")
    assert seen.code == 3
    assert "neither a config.json" in seen.err


def test_all_problems_of_a_config_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    broken = hf_config(Tiny()) | {"num_key_value_heads": 3}
    del broken["intermediate_size"], broken["vocab_size"]
    config.write_text(json.dumps(broken))
    seen = call("inspect", config, "--kv-memory")
    assert seen.code == 3
    assert seen.err.count("error:") == 3
    config.write_text(json.dumps(hf_config(Tiny()) | {"num_hidden_layers": 10**9}))
    assert call("inspect", config, "--kv-memory").code == 3


def test_params_of_released_kinds(tmp_path: Path) -> None:
    params = tmp_path / "params.json"
    big = {"dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 16, "vocab_size": 128256,
           "multiple_of": 4096, "ffn_dim_multiplier": 1.2, "norm_eps": 1e-5, "rope_theta": 5e5,
           "use_scaled_rope": True}  # fmt: skip
    params.write_text(json.dumps(big))
    assert any("16 files" in w for w in _ask(params)["warnings"])
    vision = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
              "ffn_dim_multiplier": 1.3, "multiple_of": 1024, "norm_eps": 1e-5,
              "rope_theta": 5e5, "use_scaled_rope": True, "vision_chunk_size": 560,
              "vision_max_num_chunks": 4, "vision_num_cross_attention_layers": 8}  # fmt: skip
    params.write_text(json.dumps(vision))
    found, named = _ask(params), _ask("llama-3.2-11b-vision")
    assert _figures(found) == _figures(named)
    assert found["model"] == named["model"]
    for n_layers, crosses in ((33, 8), (36, 8), (2, 9), (7, 0)):
        changed = {"n_layers": n_layers, "vision_num_cross_attention_layers": crosses or None}
        params.write_text(json.dumps(vision | changed))
        a = _ask(params)["architecture"]
        assert (a["n_layers"], a["cross_attention_layers"]) == (n_layers + crosses, crosses)
    old = {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "norm_eps": 1e-6,
           "vocab_size": -1}  # fmt: skip
    params.write_text(json.dumps(old))
    assert _ask(params)["parameters"]["unique"]["value"] == 6_738_415_616


SCRIPT = """
import sys, time
from llamatools.cli import failures, main
words = sys.argv[1:]
start = time.process_time()
code = failures.guard(lambda: main.cli(words, standalone_mode=False), words)
assert code == 0, code
print("torch" in sys.modules, time.process_time() - start, file=sys.stderr)
"""


def _measured(source: Path) -> tuple[bool, float]:
    """Whether torch was imported, and seconds of processor time, which others do not disturb."""
    command = [sys.executable, "-c", SCRIPT, "inspect", str(source), "--kv-memory", "--compare"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    torch_too, seconds = done.stderr.split()[-2:]
    return torch_too == "True", float(seconds)


PARAMS_405 = {
    "dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 8, "vocab_size": 128256,
    "multiple_of": 4096, "ffn_dim_multiplier": 1.2, "norm_eps": 1e-5, "rope_theta": 5e5,
    "use_scaled_rope": True,
}  # fmt: skip
CONFIG_405 = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
    "intermediate_size": 53248, "max_position_embeddings": 131072, "num_attention_heads": 128,
    "num_hidden_layers": 126, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}  # fmt: skip


@pytest.mark.parametrize("layout", ["hf", "meta in 8"])
def test_405b_in_a_second_without_torch(layout: str, tmp_path: Path) -> None:
    if layout == "hf":
        source = write_sparse_hf(tmp_path / "in", S405, CONFIG_405)
    else:
        source = write_sparse_meta(
            tmp_path / "in", S405, 8, PARAMS_405, columns=False, tied=False
        )  # fmt: skip
    runs = [_measured(source) for _ in range(3)]
    assert not any(torch_too for torch_too, _ in runs)
    assert min(seconds for _, seconds in runs) <= 1.0


def test_no_data_is_read(tmp_path: Path) -> None:
    """Not one of 800 GB, which even as holes take their time."""
    source = write_sparse_hf(tmp_path / "in", S405, CONFIG_405)
    start = time.monotonic()
    subject = read_subject(str(source))
    assert time.monotonic() - start < 20
    assert subject.stored is not None
    assert subject.stored.nbytes == 2 * 405_853_388_800
