"""Writes a LoRA adapter for every linear layer of a shape, in PEFT's form: SHAPE FOLDER.

Rank 16, fp32, random numbers of a size that training leaves: the change is about a hundredth of
the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from durable import sync_folder
from safetensors.torch import save_file
from shapes import SHAPES, Shape

RANK = 16
ALPHA = 32
_LINEAR = "_proj.weight"


def factors(shape: Shape) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    out = {}
    for row in shape.rows():
        if not row.hf.endswith(_LINEAR):
            continue
        module = "base_model.model." + row.hf.removesuffix(".weight")
        rows, columns = row.shape
        sizes = {"A": (RANK, columns), "B": (rows, RANK)}
        for name, size in sizes.items():
            out[f"{module}.lora_{name}.weight"] = torch.randn(size, generator=generator) * 5e-3
    return out


def main() -> None:
    shape, folder = SHAPES[sys.argv[1]], Path(sys.argv[2])
    tensors = factors(shape)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
    }
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    sync_folder(folder)


if __name__ == "__main__":
    main()
