"""config.json as transformers reads it, against what the golden checkpoints were made with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens import FILES, GOLDENS, AsHf, Golden
from transformers import AutoConfig

_CONTEXTS = {
    "llama1-mha": 2048,
    "llama2-gqa": 4096,
    "codellama-mha": 16384,
    "llama3-gqa": 8192,
    "llama3-mqa": 8192,
    "llama31-scaled": 131072,
    "llama32-tied": 131072,
}


def _rope(config: Any) -> dict[str, Any]:
    """Theta and scaling, wherever this version of transformers keeps them."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters is None:
        parameters = {"rope_theta": config.rope_theta} | (config.rope_scaling or {})
    found = {k: v for k, v in parameters.items() if v is not None}
    return {"rope_type": "default"} | found


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_config_says_what_the_model_is(golden: Golden, files: int, as_hf: AsHf) -> None:
    facts, params = golden.facts, golden.facts["params"]
    config = AutoConfig.from_pretrained(as_hf(golden.folder(files)), local_files_only=True)
    expected = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": params["dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": facts["n_kv_heads"],
        "head_dim": params["dim"] // params["n_heads"],
        "intermediate_size": facts["intermediate_size"],
        "vocab_size": facts["vocab_size"],
        "rms_norm_eps": params["norm_eps"],
        "max_position_embeddings": _CONTEXTS[golden.name],
        "tie_word_embeddings": facts["tied"],
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }
    assert {k: getattr(config, k) for k in expected} == expected
    assert config.dtype == getattr(torch, facts["dtype"])
    rope = {"rope_type": "default", "rope_theta": params.get("rope_theta", 10000.0)}
    if facts["rope_factor"] is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": facts["rope_factor"],
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    assert _rope(config) == rope
