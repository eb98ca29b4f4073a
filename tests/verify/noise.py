"""How far clean models are from their goldens: what the limits of gates are taken from.

    python tests/verify/noise.py

prints for every gate the most that was found of any model, and its limits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from by_transformers import make_golden
from judging import judged
from sharp import Change, Config, Sharp, Tensors, write

from llamatools.golden.model import Golden
from llamatools.verifying.gates import GATES

KEYS = ("rms", "mean_kl", "p95_kl")
_ROPE: dict[str, Any] = {"kv_heads": 8, "theta": 1e4, "scaling": None, "eps": 1e-6}
_WIDTHS: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": 16, "ffn": 300},
    {"head_dim": 32, "ffn": 700, "vocab": 1000},
    {"head_dim": 64, "ffn": 1408, "vocab": 1000},
)
"""Of dimension 64, 128, 256 and 512."""
MODELS = tuple(
    Sharp(f"{i}-{layers}-{bool(rope)}", layers=layers, **width, **rope)
    for i, width in enumerate(_WIDTHS)
    for layers in (2, 4, 8, 12)
    for rope in ({}, _ROPE)
)
_TORCH = {
    "fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip
_PAIRS = (
    ("fp32", "fp32"), ("fp64", "fp64"), ("fp64", "fp32"), ("fp32", "fp64"), ("fp32", "fp16"),
    ("fp16", "fp32"), ("fp16", "fp16"), ("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16"),
    ("bf16", "fp16"),
)  # fmt: skip
"""Types of a golden by transformers, and of a run."""
_CASTS = (
    (("wide",), ("bf16",)), (("wide",), ("fp16",)), (("wide", "fp16"), ("bf16",)),
    (("bf16",), ("fp16",)),
)  # fmt: skip
"""Types of a golden's weights, and those they are cast to; both are run in fp32."""


@dataclass(frozen=True)
class Found:
    gate: str
    what: str
    numbers: tuple[float, ...]
    """By KEYS."""


def measure(model: Sharp, folder: Path) -> Iterator[Found]:
    """Every pair of types, and every cast."""

    def found(what: str, source: Path, golden: Golden, dtype: str = "fp32") -> Found:
        report = judged(source, golden, dtype)
        numbers = tuple(report["overall"][key] for key in KEYS)
        return Found(report["gate"]["name"], f"{model}: {what}", numbers)

    source = write(model, folder / "bf16")
    goldens = {name: make_golden(source, dtype=dtype) for name, dtype in _TORCH.items()}
    for golden, run in _PAIRS:
        yield found(f"{golden}, {run}", source, goldens[golden], run)
    for i, (before, now) in enumerate(_CASTS):
        golden = make_golden(write(model, folder / f"{i}", _cast(*before)))
        cast = write(model, folder / f"{i}-cast", _cast(*before, *now))
        yield found(f"{' '.join(before)} to {' '.join(now)}", cast, golden)


def _cast(*types: str) -> Change:
    def change(tensors: Tensors, config: Config) -> None:
        for name in types:
            config["torch_dtype"] = str(_TORCH.get(name, torch.float32)).removeprefix("torch.")
            for key, t in tensors.items():
                tensors[key] = _widened(key, t) if name == "wide" else t.to(_TORCH[name])

    return change


def _widened(name: str, t: torch.Tensor) -> torch.Tensor:
    """In fp32, and no narrower type holds its values."""
    generator = torch.Generator().manual_seed(len(name))
    return t.float() * (1 + (torch.rand(t.shape, generator=generator) - 0.5) * 2**-8)


def most(found: list[Found]) -> dict[str, tuple[float, ...]]:
    """Gate -> the largest numbers of any model."""
    out: dict[str, tuple[float, ...]] = {}
    for f in found:
        old = out.get(f.gate, f.numbers)
        out[f.gate] = tuple(max(pair) for pair in zip(old, f.numbers, strict=True))
    return out


def _shown(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{n:8.2g}" for n in numbers)


def main() -> None:
    found = []
    for model in MODELS:
        with TemporaryDirectory() as folder:
            for f in measure(model, Path(folder)):
                found.append(f)
                print(f"{f.gate:15} {_shown(f.numbers)}  {f.what}", file=sys.stderr, flush=True)
    for gate, numbers in most(found).items():
        limits = tuple(getattr(GATES[gate], key) for key in KEYS)
        print(f"{gate:15} {_shown(numbers)}  of {_shown(limits)}")


if __name__ == "__main__":
    main()
