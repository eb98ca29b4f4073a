"""A Llama in float64 from end to end: transformers' code, where that is what it does.

transformers keeps three things in float32 whatever a model's type is: the norms' arithmetic, the
rotary angles and, in its eager attention, the softmax. Here the first two are replaced, by formulas
written for this test in python's floats, and the third is torch's attention in float64.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def _frequencies(config: Any) -> list[float]:
    """Radians per position of each pair, one at a time, as Meta's `apply_scaling` loops."""
    rope = getattr(config, "rope_parameters", None) or config.rope_scaling or {}
    theta = rope.get("rope_theta") or config.rope_theta
    width = config.head_dim
    out = []
    for j in range(width // 2):
        f = 1 / theta ** (2 * j / width)
        if rope.get("rope_type") == "linear":
            f /= rope["factor"]
        if rope.get("rope_type") == "llama3":
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            context, factor = rope["original_max_position_embeddings"], rope["factor"]
            wave = 2 * math.pi / f
            if wave > context / low:
                f /= factor
            elif wave >= context / high:
                share = (context / wave - low) / (high - low)
                f = (1 - share) * f / factor + share * f
        out.append(f)
    return out


def load(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float64, attn_implementation="sdpa"
    )
    turns = _frequencies(model.config)

    def angles(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [[p * f for f in turns] * 2 for p in position_ids[0].tolist()]
        found = torch.tensor(rows, dtype=torch.float64)[None]
        return found.cos(), found.sin()

    model.model.rotary_emb.forward = angles
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = _norm(module)
    return model.eval()


def _norm(module: Any) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float64
        length = x.norm(dim=-1, keepdim=True)  # sqrt of the sum, rather than of the mean
        mean = length.square() / x.shape[-1]
        return module.weight * x / (mean + module.variance_epsilon).sqrt()

    return forward


def logits(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(n, vocab) float64."""
    n = len(tokens)
    mask = torch.full((n, n), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.inference_mode():
        out: torch.Tensor = model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=mask,
            use_cache=False,
        ).logits[0]
    assert out.dtype == torch.float64
    return out.clone()
