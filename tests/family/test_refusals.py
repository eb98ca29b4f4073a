"""What is recognised and not handled is refused by its name, with a way on, and exit code 3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.calls import Called, call, edit_json, leftovers
from support.tiny import Tiny
from support.tiny_files import hf_config, meta_params, write_hf, write_meta

MODEL = Tiny()


def _expect(done: Called, *words: str) -> None:
    assert done.code == 3, done.out + done.err
    for word in words:
        assert word in done.err, done.err
    assert "\nhint: " in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
    "awq": ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
    "bnb": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
    "fbgemm": ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "FP8"),
    "compressed": (
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
    ),
    "new": ({"quantization_config": {"quant_method": "zzz\n::error::"}}, "quantised"),
    "vision": ({"model_type": "mllama", "architectures": ["MllamaForX"]}, "3.2 vision"),
    "vision text": ({"model_type": "mllama_text_model"}, "3.2 vision"),
    "llama 4": ({"model_type": "llama4", "architectures": ["Llama4ForX"]}, "Llama 4"),
    **{
        kind: ({"model_type": kind, "architectures": [name]}, name)
        for kind, name in (
            ("mistral", "MistralForCausalLM"),
            ("mixtral", "MixtralForCausalLM"),
            ("qwen2", "Qwen2ForCausalLM"),
            ("qwen3", "Qwen3ForCausalLM"),
            ("chatglm", "ChatGLMModel"),
            ("falcon", "FalconForCausalLM"),
            ("gpt2", "GPT2LMHeadModel"),
            ("gemma2", "Gemma2ForCausalLM"),
        )
    },
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "Classification"),
    "headless": ({"architectures": ["LlamaModel"]}, "LlamaModel"),
}


@pytest.mark.parametrize(("changes", "word"), CONFIGS.values(), ids=CONFIGS)
def test_by_config(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    source, out = write_hf(MODEL, tmp_path / "in"), tmp_path / "out"
    edit_json(source / "config.json", **changes)
    _expect(call("inspect", source), "config.json", word)
    _expect(call("convert", source, out, "--to", "meta"), "config.json", word)
    _expect(call("fingerprint", source), "config.json", word)
    assert leftovers(out) == []


def test_an_old_spelling_is_no_other_architecture(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    edit_json(source / "config.json", architectures=["LLaMAForCausalLM"])
    assert call("inspect", source).code == 0


Q = "model.layers.0.self_attn.q_proj."
NAMES = {
    Q + "qweight": "GPTQ or AWQ",
    Q + "g_idx": "GPTQ",
    Q + "weight.quant_state.bitsandbytes__nf4": "bitsandbytes",
    Q + "weight.absmax": "bitsandbytes",
    Q + "SCB": "bitsandbytes",
    Q + "weight_packed": "compressed-tensors",
    Q + "weight_scale": "FP8 or INT8",
    Q + "weight_scale_inv": "FP8 or INT8",
    Q + "input_scale": "FP8",
    "layers.0.attention.wq.adaptor.A.weight": "SpinQuant or QLoRA",
    "layers.0.attention.wq.zeros": "SpinQuant or QLoRA",
    "layers.0.attention.wq.scales": "quantised weights",
    "base_model.model." + Q + "lora_A.weight": "LoRA",
    "vision_model.patch_embedding.weight": "3.2 vision",
    "vision_encoder.conv1._linear.weight": "3.2 vision",
    "cross_attention_layers.0.attention.wq.weight": "3.2 vision",
    "language_model.model.layers.3.cross_attn.q_proj.weight": "3.2 vision",
    "layers.0.feed_forward.experts.moe_w_in_eD_F": "Llama 4",
    "layers.0.feed_forward.router_DE": "Llama 4",
    "model.layers.0.block_sparse_moe.gate.weight": "Mixtral",
    "model.layers.0.mlp.experts.0.gate_proj.weight": "mixture-of-experts",
    "transformer.h.0.self_attention.dense.weight": "Falcon",
    "h.0.attn.c_attn.weight": "GPT-2",
    "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": "ChatGLM",
    Q.replace("q_proj", "q_norm") + "weight": "Qwen3",
    "model.layers.0.self_attn.qkv_proj.weight": "fused",
    "model.layers.0.self_attn.W_pack.weight": "Baichuan",
}


@pytest.mark.parametrize(("name", "word"), NAMES.items(), ids=NAMES)
@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_by_tensor_names(name: str, word: str, container: str, tmp_path: Path) -> None:
    """The config says nothing of it."""
    tensors = {**MODEL.truth, name: torch.zeros(4, dtype=torch.int8)}
    if container == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(MODEL)))
    _expect(call("inspect", tmp_path), word, name)


TYPES = {
    torch.float8_e4m3fn: "FP8 quantised weights",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.float64: "F64",
    torch.bool: "BOOL",
}


@pytest.mark.parametrize(("dtype", "word"), TYPES.items(), ids=str)
def test_by_type(dtype: torch.dtype, word: str, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(MODEL.truth | {name: MODEL.truth[name].to(dtype)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(MODEL)))
    _expect(call("inspect", tmp_path), word, name)


PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "int4": ({"quantization_args": {"scheme": "int4_weight_int8_dynamic_activation"}}, "quantised"),
    "qlora": ({"quantization_args": {}, "lora_args": {"rank": 16}}, "quantised"),
    "vision": ({"vision_chunk_size": 560, "vision_num_cross_attention_layers": 8}, "3.2 vision"),
    "llama 4": ({"vision_args": {}, "moe_args": {"num_experts": 16}}, "Llama 4"),
    "llama 4 text": ({"moe_args": {"num_experts": 16}}, "Llama 4"),
}


@pytest.mark.parametrize(("changes", "word"), PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_by_params(changes: Mapping[str, Any], word: str, nested: bool, tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 1)
    params = {**meta_params(MODEL, 2), **changes}
    (source / "params.json").write_text(json.dumps({"model": params} if nested else params))
    _expect(call("inspect", source), "params.json", word)


def test_metas_fp8_release(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 2)
    torch.save({}, source / "fp8_scales_0.pt")
    _expect(call("inspect", source), "FP8 quantised Llama release", "fp8_scales_0.pt")


FILES: dict[str, tuple[str, bytes, str]] = {
    "gguf": ("model.Q4_K_M.gguf", b"GGUF\3\0\0\0", "GGUF"),
    "gguf as bin": ("pytorch_model.bin", b"GGUF\3\0\0\0", "GGUF"),
    "ggml": ("ggml-model-q4_0.bin", b"tjgg\0\0\0\0", "GGML"),
    "pickle": ("pytorch_model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before 1.6"),
    "html": ("model.safetensors", b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "html pth": ("consolidated.00.pth", b"<html><body>403</body></html>", "web page"),
    "lfs": (
        "model.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
        "git-lfs pointer",
    ),
    "empty": ("model.safetensors", b"", "empty"),
    "zeros": ("consolidated.00.pth", bytes(4096), "zeros"),
    "noise": ("model.safetensors", b"\xde\xad\xbe\xef" * 64, "not a checkpoint"),
}


@pytest.mark.parametrize(("name", "data", "word"), FILES.values(), ids=FILES)
def test_by_content(name: str, data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(MODEL)))
    if not name.startswith("ggml"):  # a name that nobody gives to weights must be given
        _expect(call("inspect", tmp_path), word, name)
    if not name.endswith(".gguf"):
        _expect(call("inspect", tmp_path / name), word, name)


def test_a_legacy_torch_file(tmp_path: Path) -> None:
    torch.save(MODEL.truth, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(MODEL)))
    _expect(call("inspect", tmp_path), "before 1.6", "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")


def test_an_adapter(tmp_path: Path) -> None:
    _adapter(tmp_path)
    _expect(call("inspect", tmp_path), "an adapter, not a model")


@pytest.mark.parametrize("beside", ["training_args.bin", "optimizer.pt", "rng_state.pth"])
def test_an_adapter_beside_what_training_leaves(beside: str, tmp_path: Path) -> None:
    _adapter(tmp_path)
    torch.save({"learning_rate": 1}, tmp_path / beside)
    _expect(call("inspect", tmp_path), "an adapter, not a model")


def test_json_has_the_same_words(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    edit_json(source / "config.json", quantization_config={"quant_method": "gptq"})
    done = call("inspect", source, "--json")
    assert done.code == 3
    error = done.json["error"]
    assert (error["kind"], error["exit_code"]) == ("unsupported", 3)
    assert "GPTQ" in error["problems"][0]
    assert error["hint"] in done.err
