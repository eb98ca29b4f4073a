"""Checkpoints that are recognised and not handled, each with its name, the reason and a way on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llamatools.containers.base import StoredTensor
from llamatools.errors import Unsupported
from llamatools.text import listing, safe

_DEQUANTISE = "start from the unquantised release: quantised weights cannot be converted losslessly"
_MERGE = "merge it into its base model: llamatools merge-lora BASE ADAPTER OUT"
_LLAMA_ONLY = "llamatools handles dense, text-only Llama models"


@dataclass(frozen=True)
class Mark:
    """A part of a tensor name that gives a kind of checkpoint away."""

    part: str
    what: str
    hint: str


_MARKS = (
    Mark(
        "delta.layers.",
        "an exact delta",
        "a delta is not a model: llamatools apply-delta BASE DELTA OUT makes one",
    ),
    Mark(".qweight", "GPTQ or AWQ quantised weights", _DEQUANTISE),
    Mark(".qzeros", "GPTQ or AWQ quantised weights", _DEQUANTISE),
    Mark(".g_idx", "GPTQ quantised weights", _DEQUANTISE),
    Mark(".quant_state.", "bitsandbytes quantised weights", _DEQUANTISE),
    Mark(".quant_map", "bitsandbytes quantised weights", _DEQUANTISE),
    Mark(".absmax", "bitsandbytes quantised weights", _DEQUANTISE),
    Mark(".SCB", "bitsandbytes 8-bit weights", _DEQUANTISE),
    Mark(".weight_packed", "compressed-tensors quantised weights", _DEQUANTISE),
    Mark(".weight_scale", "FP8 or INT8 quantised weights", _DEQUANTISE),
    Mark(".input_scale", "FP8 quantised weights", _DEQUANTISE),
    Mark(".adaptor.", "Meta's INT4 release (SpinQuant or QLoRA)", _DEQUANTISE),
    Mark(".zeros", "Meta's INT4 release (SpinQuant or QLoRA)", _DEQUANTISE),
    Mark(".scales", "quantised weights", _DEQUANTISE),
    Mark(
        "lora_A",
        "LoRA adapter tensors",
        _MERGE,
    ),
    Mark(
        "lora_embedding_A",
        "LoRA adapter tensors",
        _MERGE,
    ),
    Mark("vision_", "a Llama 3.2 vision model", _LLAMA_ONLY),
    Mark("cross_attention_layers", "a Llama 3.2 vision model", _LLAMA_ONLY),
    Mark("cross_attn", "a Llama 3.2 vision model", _LLAMA_ONLY),
    Mark("feed_forward.experts", "a Llama 4 model (mixture of experts)", _LLAMA_ONLY),
    Mark("router_DE", "a Llama 4 model (mixture of experts)", _LLAMA_ONLY),
    Mark("block_sparse_moe", "a Mixtral model", _LLAMA_ONLY),
    Mark("mlp.experts", "a mixture-of-experts model", _LLAMA_ONLY),
    Mark("transformer.h.", "a GPT-2 or Falcon model", _LLAMA_ONLY),
    Mark("h.0.attn.c_attn", "a GPT-2 model", _LLAMA_ONLY),
    Mark("query_key_value", "a GPT-NeoX, Falcon or ChatGLM model", _LLAMA_ONLY),
    Mark("transformer.encoder.", "a ChatGLM model", _LLAMA_ONLY),
    Mark("self_attn.q_norm", "a Qwen3 or Gemma3 model (normalised queries)", _LLAMA_ONLY),
    Mark("qkv_proj", "a model with fused attention projections", _LLAMA_ONLY),
    Mark("W_pack", "a Baichuan model", _LLAMA_ONLY),
    Mark("mixer.", "a state-space model", _LLAMA_ONLY),
)

_QUANT_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors",
}


def refuse_config(config: Mapping[str, object]) -> None:
    """Raise Unsupported where a config.json names a quantisation or another architecture."""
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict):
        method = safe(quantisation.get("quant_method", "unnamed method"))
        raise Unsupported(
            f"config.json: a quantised model ({_QUANT_METHODS.get(method, method)})",
            hint=_DEQUANTISE,
        )
    kind = config.get("model_type")
    if kind in ("mllama", "mllama_text_model"):
        raise Unsupported("config.json: a Llama 3.2 vision model (mllama)", hint=_LLAMA_ONLY)
    if kind in ("llama4", "llama4_text"):
        raise Unsupported("config.json: a Llama 4 model", hint=_LLAMA_ONLY)
    named = config.get("architectures")
    names = named if isinstance(named, list) else []
    # Some old conversions spell the class LLaMAForCausalLM.
    foreign = [n for n in names if str(n).lower() != "llamaforcausallm"]
    if kind not in (None, "llama") or foreign:
        raise Unsupported(
            f"config.json: model_type {safe(kind)}, architectures "
            f"{listing(names) or 'not given'}: not a Llama causal language model",
            hint=_LLAMA_ONLY,
        )


def refuse_params(params: Mapping[str, object]) -> None:
    """Raise Unsupported where a params.json names a quantised, vision or Llama 4 release."""
    if "quantization_args" in params or "lora_args" in params:
        raise Unsupported(
            "params.json: a quantised Llama release (quantization_args)", hint=_DEQUANTISE
        )
    if any(k.startswith("vision_") for k in params):
        kind = "Llama 4" if "moe_args" in params else "Llama 3.2 vision"
        raise Unsupported(f"params.json: a {kind} model", hint=_LLAMA_ONLY)
    foreign = sorted({"sliding_window", "hidden_dim", "head_dim", "moe"} & params.keys())
    if foreign:
        raise Unsupported(
            f"params.json: not Meta's but Mistral's format ({listing(foreign)})", hint=_LLAMA_ONLY
        )
    if "moe_args" in params:
        raise Unsupported("params.json: a Llama 4 model (moe_args)", hint=_LLAMA_ONLY)


def refuse_tensors(tensors: Iterable[StoredTensor]) -> None:
    """Raise Unsupported where names or dtypes give another kind of checkpoint away."""
    seen = list(tensors)
    for mark in _MARKS:
        hits = [t for t in seen if mark.part in t.name]
        if hits:
            raise Unsupported(
                f"{safe(hits[0].file.path)}: {mark.what}: {listing(t.name for t in hits)}",
                hint=mark.hint,
            )
    strange = [t for t in seen if not t.dtype.convertible and not _is_buffer(t)]
    if strange:
        kinds = ", ".join(sorted({t.dtype.name for t in strange}))
        fp8 = any(t.dtype.name.startswith("F8") for t in strange)
        what = "FP8 quantised weights" if fp8 else "weights of a type that is not handled"
        raise Unsupported(
            f"{safe(strange[0].file.path)}: {what} ({kinds}): {listing(t.name for t in strange)}",
            hint=_DEQUANTISE if fp8 else "F32, BF16 and F16 weights are handled",
        )


def _is_buffer(t: StoredTensor) -> bool:
    return t.name.endswith(("rope.freqs", "inv_freq"))


def refuse_files(names: Iterable[str]) -> None:
    """Raise Unsupported where a folder's files tell what it is."""
    names = sorted(names)
    fp8 = [n for n in names if n.startswith("fp8_scales_")]
    if fp8:
        raise Unsupported(
            f"an FP8 quantised Llama release: {listing(fp8)}",
            hint=_DEQUANTISE,
        )
