"""Random models that transformers itself builds and saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

_SCALED = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FACTOR_8 = {"rope_scaling": _SCALED | {"factor": 8.0}}
FACTOR_32 = {"rope_scaling": _SCALED | {"factor": 32.0}}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mqa": {"num_key_value_heads": 1},
    "mha without a count": {"num_key_value_heads": None},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "factor 8": FACTOR_8,
    "factor 32": FACTOR_32,
    "tied, factor 8": {"tie_word_embeddings": True} | FACTOR_8,
    "tied, factor 32": {"tie_word_embeddings": True} | FACTOR_32,
    "factor 16": {"rope_scaling": _SCALED | {"factor": 16.0}},
    "eps 1e-6": {"rms_norm_eps": 1e-6},
    "eps 1e-5, theta 1e4": {"rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    "theta 7e5": {"rope_theta": 700000.0},
    "ffn 86": {"intermediate_size": 86},
}
"""Settings that Meta's layout can state."""

HF_ONLY: dict[str, dict[str, Any]] = {
    "heads wider than dim": {"head_dim": 12},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 16.0,
            "original_max_position_embeddings": 1024,
        },
    },
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
    },
    "llama3 with other constants": {
        "rope_scaling": _SCALED | {"factor": 4.0, "original_max_position_embeddings": 2048}
    },
}
"""Settings that only transformers' layout can."""

TOKENS = torch.arange(48) % 50
POSITIONS = torch.cat([torch.arange(24), torch.arange(4096, 4120)])


def save_prompt(path: Path) -> Path:
    save_file({"tokens": TOKENS, "positions": POSITIONS}, path)
    return path


def save_llama(folder: Path, **changed: Any) -> Any:
    """A saved model, and the model: weights are large enough for every part of it to matter."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 48,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "initializer_range": 0.2,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**(settings | changed)))
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.copy_(torch.exp(0.3 * torch.randn_like(parameter)))
    model.save_pretrained(folder)
    return model
