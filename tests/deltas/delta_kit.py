"""Models of numbers and deltas between them, written and added up with torch alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.tiny import Tensors, Tiny
from support.tiny_files import hf_config, read_hf, write_hf, write_meta

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
VOCABULARY = (EMBEDDING, HEAD)
BASE = Tiny(style="llama-1", kv_heads=8, vocab=40)


def with_numbers(model: Tiny, seed: int, scale: float = 0.1) -> Tiny:
    """The same architecture with other weights, all of them finite."""
    out = replace(model)
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randn(t.shape, generator=generator) for n, t in out.truth.items()}
    return holding(out, {n: (t * scale).to(out.truth[n].dtype) for n, t in drawn.items()})


def holding(model: Tiny, tensors: Tensors) -> Tiny:
    """The same architecture with these weights."""
    out = replace(model)
    out.__dict__["truth"] = tensors
    return out


def write(model: Tiny, folder: Path, layout: str = "hf") -> Path:
    """ "hf", or "meta" with the number of files after it."""
    if layout == "hf":
        return write_hf(model, folder)
    return write_meta(model, folder, int(layout.removeprefix("meta")))


def write_tensors(folder: Path, model: Tiny, tensors: Tensors, **config: Any) -> Path:
    """An HF folder whose tensors and config are given."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model) | config))
    return folder


def grown(model: Tiny, tensors: Tensors, rows: int, how: str) -> Tensors:
    """The vocabulary's tensors with more rows: zeros, or the mean of the old, in fp32."""
    out = dict(tensors)
    for name in VOCABULARY:
        if name not in tensors:
            continue
        old = tensors[name].float()
        row = torch.zeros_like(old[0]) if how == "zeros" else old.mean(0)
        out[name] = torch.cat([old, row.expand(rows - len(old), -1)])
    return out


def read(folder: Path) -> Tensors:
    return read_hf(folder)


def fingerprints(*folders: Path) -> set[str]:
    import llamatools

    return {llamatools.fingerprint(f).digest for f in folders}
