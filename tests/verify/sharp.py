"""Sharp random models: weights spread so that every part of a forward pass matters.

With the usual 0.02 and unit norms, swapped norms, wrong eps and missing rope scaling pass every
tolerance. Written without llamatools, as transformers saves them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
Change = Callable[[Tensors, Config], None]

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GAINS = {"q_proj": 2.0, "k_proj": 2.0, "gate_proj": 1.5, "lm_head": 3.0}


@dataclass(frozen=True)
class Sharp:
    """A model, by its sizes."""

    name: str = "llama-3.1"
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 8
    layers: int = 4
    ffn: int = 96
    vocab: int = 160
    eps: float = 1e-5
    theta: float = 500000.0
    scaling: Config | None = field(default_factory=lambda: dict(SCALING))
    bias: bool = False
    tied: bool = False
    context: int = 131072

    def __str__(self) -> str:
        return self.name

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def config(self) -> Config:
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": self.bias,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "mlp_bias": self.bias,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.eps,
            "rope_scaling": self.scaling,
            "rope_theta": self.theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        }

    @property
    def tensors(self) -> Tensors:
        dim, kv = self.dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, dim)}
        for i in range(self.layers):
            a, m = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            shapes[f"model.layers.{i}.input_layernorm.weight"] = (dim,)
            shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (dim,)
            for name, rows, columns in (
                (a + "q_proj", dim, dim), (a + "k_proj", kv, dim), (a + "v_proj", kv, dim),
                (a + "o_proj", dim, dim), (m + "gate_proj", self.ffn, dim),
                (m + "up_proj", self.ffn, dim), (m + "down_proj", dim, self.ffn),
            ):  # fmt: skip
                shapes[name + ".weight"] = (rows, columns)
                if self.bias:
                    shapes[name + ".bias"] = (rows,)
        shapes["model.norm.weight"] = (dim,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, dim)
        return {name: _draw(name, shape) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return torch.exp(0.3 * noise).bfloat16()
    if name.endswith("bias"):
        return (0.3 * noise).bfloat16()
    if "embed_tokens" in name:
        return (0.02 * noise).bfloat16()
    gain = next((g for word, g in GAINS.items() if word in name), 1.0)
    return (gain / sqrt(shape[1]) * noise).bfloat16()


def write(model: Sharp, folder: Path, change: Change = lambda tensors, config: None) -> Path:
    """The model's folder, with something made wrong on the way."""
    tensors, config = model.tensors, model.config
    change(tensors, config)
    folder.mkdir(parents=True)
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
