"""How many elements of a merged bf16 model are not nearest to the exact sum: BASE ADAPTER ACTUAL.

The sum W + s * B * A is taken in fp64 from the files, by this script alone. Prints the fraction of
all merged elements; exit status 1 if it is above one in ten thousand, or if a tensor that no factor
belongs to has other bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from adapter_input import ALPHA, RANK
from safetensors import safe_open

_ROWS = 1024
_LIMIT = 1e-4


def nearest(exact: torch.Tensor) -> torch.Tensor:
    """fp64 to bf16, rounded once. By way of fp32, where what is inexact becomes odd, so that no
    tie arises that was none."""
    near = exact.to(torch.float32)
    back = near.to(torch.float64)
    bits = near.view(torch.int32)
    bits -= (back.abs() > exact.abs()).to(torch.int32)
    bits |= (back != exact).to(torch.int32)
    return near.to(torch.bfloat16)


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                yield name, file.get_tensor(name)


def wrong(base: torch.Tensor, found: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> int:
    scaled = a.double() * (ALPHA / RANK)
    count = 0
    for i in range(0, len(base), _ROWS):
        rows = slice(i, i + _ROWS)
        exact = base[rows].double() + b[rows].double() @ scaled
        count += int((nearest(exact) != found[rows]).sum())
    return count


def main() -> None:
    base, adapter, actual = map(Path, sys.argv[1:4])
    factors, written = dict(tensors(adapter)), dict(tensors(actual))
    total = missed = 0
    for name, weight in tensors(base):
        module = "base_model.model." + name.removesuffix(".weight")
        b = factors.get(f"{module}.lora_B.weight")
        if b is None:
            if not torch.equal(weight, written[name]):
                sys.exit(f"{name}: other bytes")
            continue
        total += weight.numel()
        missed += wrong(weight, written[name], factors[f"{module}.lora_A.weight"], b)
    print(f"{missed / total:.4%} of {total:,} merged elements are not nearest to the exact sum")
    sys.exit(missed > _LIMIT * total)


if __name__ == "__main__":
    main()
