"""Pairs of tiny models, one tuned from the other, and what a difference is by plain arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.tiny import Tensors, Tiny, finite

Change = Callable[[Tensors], None]
PREFIX = "base_model.model."


def small(**changes: Any) -> Tiny:
    """A model whose numbers are small enough for its logits to mean something."""
    sizes: dict[str, Any] = {
        "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 40, "vocab": 48, "dtype": torch.float32,
    }  # fmt: skip
    model = finite(Tiny(**(sizes | changes)))
    for name, t in model.truth.items():
        model.truth[name] = 1 + t * 0.1 if "norm" in name else t * 0.1
    return model


def tuned(model: Tiny, change: Change, **changes: Any) -> Tiny:
    """The same model after a change of its tensors; `changes` of its sizes and type."""
    fields = {k: v for k, v in model.__dict__.items() if k in Tiny.__dataclass_fields__}
    out = Tiny(**(fields | changes))
    tensors = {n: t.clone() for n, t in model.truth.items()}
    change(tensors)
    out.__dict__["truth"] = {n: t.to(out.dtype) for n, t in tensors.items()}
    return out


def shift(*ends: str, rank: int | None = None, size: float = 0.03) -> Change:
    """Adds random numbers to every tensor whose name ends so; a matrix of low rank if asked for."""

    def change(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(17)
        for name in sorted(tensors):
            t = tensors[name]
            if not name.endswith(ends):
                continue
            if rank is None or t.dim() == 1:
                noise = torch.randn(t.shape, generator=generator)
            else:
                left = torch.randn(t.shape[0], rank, generator=generator)
                noise = left @ torch.randn(rank, t.shape[1], generator=generator)
            tensors[name] = (t + size * noise).to(t.dtype)

    return change


LINEAR = "_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def in_steps(model: Tiny, step: float = 2.0**-6) -> Tiny:
    """The model with numbers of few bits, so that small changes of them are exact in any type."""
    for name, t in model.truth.items():
        model.truth[name] = (t / step).round().clamp(-15, 15) * step
    return model


def exactly(*ends: str, rank: int, step: float = 2.0**-6) -> Change:
    """Adds a matrix of whole steps whose rank is at most `rank`, without any rounding."""

    def change(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(23)
        for name in sorted(tensors):
            t = tensors[name]
            if name.endswith(ends) and t.dim() == 2:
                left = torch.randint(-2, 3, (t.shape[0], rank), generator=generator)
                right = torch.randint(-2, 3, (rank, t.shape[1]), generator=generator)
                tensors[name] = t + step * (left @ right).to(t.dtype)

    return change


def together(*changes: Change) -> Change:
    def change(tensors: Tensors) -> None:
        for c in changes:
            c(tensors)

    return change


def config_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "adapter_config.json").read_text())
    return found


def weights_of(out: Path) -> Tensors:
    return load_file(out / "adapter_model.safetensors")


def rebuilt(out: Path, base: Tensors) -> Tensors:
    """The base with all that an adapter's files say added in fp64: nothing of llamatools."""
    result = {n: t.double() for n, t in base.items()}
    tensors = weights_of(out)
    for name, t in tensors.items():
        module, _, role = name.removeprefix(PREFIX).partition(".lora_")
        if not role:
            result[module] = t.double()
        elif role == "A.weight":
            b = tensors[name.replace("lora_A", "lora_B")]
            result[f"{module}.weight"] = result[f"{module}.weight"] + b.double() @ t.double()
        elif role == "B.bias":
            result[f"{module}.bias"] = result[f"{module}.bias"] + t.double()
        elif role == "embedding_A":
            b = tensors[name.replace("embedding_A", "embedding_B")]
            delta = (b.double() @ t.double()).T  # (rows, dim)
            result[f"{module}.weight"] = result[f"{module}.weight"] + delta
    return result


def errors(found: Tensors, base: Tensors, wanted: Tensors) -> dict[str, float]:
    """|wanted - found| / |wanted - base| of every tensor that the base has and that differs."""
    out = {}
    for name, t in wanted.items():
        length = (t.double() - base[name].double()).norm()
        if length:
            out[name] = float((t.double() - found[name].double()).norm() / length)
    return out
