"""Adapters written by hand, in PEFT's form, for models of `support.tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from support.tiny import Tensors, Tiny

PREFIX = "base_model.model."
RANK = 2
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json; a change to `...` leaves a key out."""
    base = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": True,
        "bias": "none",
    }
    return {k: v for k, v in (base | changes).items() if v is not ...}


def factors(
    model: Tiny, *modules: str, rank: int = RANK, dtype: torch.dtype = torch.float32
) -> Tensors:
    """lora_A and lora_B of every module whose path ends with one of the names."""
    generator = torch.Generator().manual_seed(11)
    out: Tensors = {}
    for name, weight in model.truth.items():
        module = name.removesuffix(".weight")
        if module == name or module.rpartition(".")[2] not in modules:
            continue
        rows, columns = weight.shape
        out[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        out[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    return {n: (t * 0.1).to(dtype) for n, t in out.items()}


def write_adapter(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    """adapter_model.safetensors and adapter_config.json in a new folder."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    return folder


def plain(model: Tiny, folder: Path, **changes: Any) -> Path:
    """An ordinary adapter of queries and values."""
    return write_adapter(folder, factors(model, "q_proj", "v_proj"), **changes)


def sums(model: Tiny, tensors: Tensors, scale: float) -> Tensors:
    """The model with B A added, in fp64, from nothing but the tensors."""
    out = {n: t.double() for n, t in model.truth.items()}
    for name, a in tensors.items():
        if ".lora_A." in name:
            weight = name.removeprefix(PREFIX).replace(".lora_A", "")
            b = tensors[name.replace("lora_A", "lora_B")]
            out[weight] = out[weight] + scale * (b.double() @ a.double())
    return out
