"""The usual conversion, as a yardstick: {to-hf,to-meta} SHAPE SRC OUT.

Reads the whole checkpoint into memory, renames, permutes q and k, and saves: safetensors in
shards of at most 5 GB with an index when there are several, or one torch.save. Ends when the
output is on the disk.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from durable import sync_folder
from model_files import config_json, params_json
from safetensors.torch import load_file, save_file
from shapes import SHAPES, Shape

Tensors = dict[str, torch.Tensor]

_SHARD_BYTES = 5_000_000_000


def to_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Meta's row order -> HF's: (H·D, in) -> (H, D/2, 2, in) -> (H, 2, D/2, in) -> (H·D, in)."""
    n_rows, width = weight.shape
    pairs = weight.view(heads, n_rows // heads // 2, 2, width)
    return pairs.transpose(1, 2).reshape(n_rows, width)


def to_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """HF's row order -> Meta's: (H·D, in) -> (H, 2, D/2, in) -> (H, D/2, 2, in) -> (H·D, in)."""
    n_rows, width = weight.shape
    halves = weight.view(heads, 2, n_rows // heads // 2, width)
    return halves.transpose(1, 2).reshape(n_rows, width)


def shards(tensors: Tensors) -> list[Tensors]:
    """Consecutive tensors, in shards of at most 5 GB."""
    filled: list[Tensors] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if filled[-1] and size + tensor.nbytes > _SHARD_BYTES:
            filled.append({})
            size = 0
        filled[-1][name] = tensor
        size += tensor.nbytes
    return filled


def save_hf(tensors: Tensors, folder: Path) -> None:
    parts = shards(tensors)
    if len(parts) == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def to_hf(shape: Shape, source: Path, out: Path) -> None:
    loaded = torch.load(source / "consolidated.00.pth", map_location="cpu", weights_only=True)
    tensors = {
        row.hf: to_halves(loaded[row.meta], row.heads) if row.heads else loaded[row.meta]
        for row in shape.rows()
    }
    del loaded
    save_hf(tensors, out)
    (out / "config.json").write_text(json.dumps(config_json(shape), indent=2))


def to_meta(shape: Shape, source: Path, out: Path) -> None:
    loaded: Tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        loaded |= load_file(file)
    tensors = {
        row.meta: to_pairs(loaded[row.hf], row.heads) if row.heads else loaded[row.hf]
        for row in shape.rows()
    }
    del loaded
    torch.save(tensors, out / "consolidated.00.pth")
    (out / "params.json").write_text(json.dumps(params_json(shape)))


def main() -> None:
    directions: dict[str, Callable[[Shape, Path, Path], None]] = {
        "to-hf": to_hf,
        "to-meta": to_meta,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction", choices=directions)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()

    given.out.mkdir()
    directions[given.direction](SHAPES[given.shape], given.source, given.out)
    sync_folder(given.out)


if __name__ == "__main__":
    main()
