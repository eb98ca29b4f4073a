"""Whether two checkpoints of one layout hold the same tensors, byte for byte: EXPECTED ACTUAL.

Compares names, dtypes, shapes and bytes, in slices, and prints every difference; exit status 1
if there is one. Reads safetensors by itself and .pth files with torch.load; uses no llamatools.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SLICE = 64 << 20


@dataclass(frozen=True)
class Stored:
    """One tensor: what it claims to be, and its bytes, mapped from its file."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


def safetensors_file(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, mode="r", offset=8 + length)
    return {
        name: Stored(entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def torch_file(path: Path) -> dict[str, Stored]:
    import torch

    def raw(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
        return tensor.contiguous().view(-1).view(torch.uint8).numpy()

    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {
        name: Stored(str(tensor.dtype), tuple(tensor.shape), raw(tensor))
        for name, tensor in loaded.items()
    }


def checkpoint(folder: Path) -> dict[str, Stored]:
    """All tensors of the folder, whatever number of files they are in."""
    tensors: dict[str, Stored] = {}
    for read, pattern in ((safetensors_file, "*.safetensors"), (torch_file, "*.pth")):
        for path in sorted(folder.glob(pattern)):
            found = read(path)
            if twice := tensors.keys() & found.keys():
                sys.exit(f"{folder}: in two files: {sorted(twice)}")
            tensors |= found
    return tensors


def differences(expected: dict[str, Stored], actual: dict[str, Stored]) -> Iterable[str]:
    yield from (f"missing: {name}" for name in sorted(expected.keys() - actual.keys()))
    yield from (f"unexpected: {name}" for name in sorted(actual.keys() - expected.keys()))
    for name in sorted(expected.keys() & actual.keys()):
        a, b = expected[name], actual[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"{name}: {a.dtype} {a.shape} expected, {b.dtype} {b.shape} found"
        elif any(
            not np.array_equal(a.data[i : i + _SLICE], b.data[i : i + _SLICE])
            for i in range(0, max(a.data.size, b.data.size), _SLICE)
        ):
            yield f"{name}: other bytes"


def main() -> None:
    expected, actual = (checkpoint(Path(argument)) for argument in sys.argv[1:3])
    if not expected:
        sys.exit(f"no tensors in {sys.argv[1]}")
    found = list(differences(expected, actual))
    print("\n".join(found) or f"{len(expected)} tensors, byte-equal")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
