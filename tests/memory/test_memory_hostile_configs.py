"""Configs that nobody vouches for: read, or refused with a message; never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import call
from support.tiny import Tiny
from support.tiny_files import hf_config, meta_params

STRANGE = (
    None,
    True,
    -1,
    0,
    3,
    1.5,
    10**9,
    10**19,
    "x",
    "",
    [],
    [1],
    [-1, "x"],
    {},
    {"a": 1},
    [[]],
)

VISION = {
    "model_type": "mllama",
    "architectures": ["MllamaForConditionalGeneration"],
    "text_config": {
        "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "cross_attention_layers": [3], "torch_dtype": "bfloat16",
    },
    "vision_config": {
        "hidden_size": 16, "num_hidden_layers": 3, "num_global_layers": 2, "image_size": 28,
        "intermediate_size": 24, "patch_size": 14, "max_num_tiles": 4, "vision_output_dim": 48,
        "supported_aspect_ratios": [[1, 1]],
    },
}  # fmt: skip
MIXTURE = {
    "model_type": "llama4",
    "text_config": {
        "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 6, "vocab_size": 96,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32, "rms_norm_eps": 1e-5,
        "intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 1,
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "moe_layers": [0, 1],
        "attention_chunk_size": 16, "rope_theta": 1e4,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "image_size": 28,
        "patch_size": 14, "vision_output_dim": 32, "projector_input_dim": 32,
    },
}  # fmt: skip
META_VISION = {
    "dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 96, "multiple_of": 16,
    "norm_eps": 1e-5, "rope_theta": 1e4, "vision_chunk_size": 28, "vision_max_num_chunks": 4,
    "vision_num_cross_attention_layers": 2,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "dense": hf_config(Tiny()) | {"quantization_config": {"quant_method": "gptq"}},
    "params": meta_params(Tiny(), 2),
    "vision": VISION,
    "mixture": MIXTURE,
    "params of vision": META_VISION,
}


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield (*at, k)
            yield from _places(v, (*at, k))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_replaced(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS[name]))
    assert call("inspect", config, "--kv-memory", "--gpu", "h100").code == 0
    refused = 0
    for place in _places(CONFIGS[name]):
        for strange in (*STRANGE, ...):
            broken = copy.deepcopy(CONFIGS[name])
            parent = broken
            for step in place[:-1]:
                parent = parent[step]
            if strange is ...:
                del parent[place[-1]]
            else:
                parent[place[-1]] = strange
            config.write_text(json.dumps(broken))
            done = call("inspect", config, "--kv-memory", "--json")
            assert done.code in (0, 3), (place, strange, done.err)
            assert "defect" not in done.err, (place, strange, done.err)
            refused += done.code == 3
    assert refused > 20
