"""What stands beside the weights: params.json for Meta's layout, config.json for HF's (v4)."""

from __future__ import annotations

from typing import Any

from shapes import Shape

_THETA = 500000.0
_EPS = 1e-5


def params_json(shape: Shape) -> dict[str, Any]:
    return {
        "dim": shape.dim,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "vocab_size": shape.vocab,
        "ffn_dim_multiplier": shape.ffn_dim_multiplier,
        "multiple_of": shape.multiple_of,
        "norm_eps": _EPS,
        "rope_theta": _THETA,
        "use_scaled_rope": shape.rope_factor is not None,
    }


def config_json(shape: Shape) -> dict[str, Any]:
    scaling = shape.rope_factor and {
        "factor": shape.rope_factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": 131072 if scaling else 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "rms_norm_eps": _EPS,
        "rope_scaling": scaling,
        "rope_theta": _THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }
