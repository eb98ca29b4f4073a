"""Which tensors go into which file, and under which file name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamatools.containers.base import FileLayout
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.containers.torchzip_write import torch_layout
from llamatools.dtypes import DType
from llamatools.jsonio import dump_json

Entry = tuple[str, DType, tuple[int, ...]]
"""(native name, dtype, shape)"""


@dataclass(frozen=True)
class Naming:
    """File names of one way to store weights."""

    stem: str
    ending: str
    make: Callable[[Sequence[Entry], str], FileLayout]
    """From entries and the file's stem to its layout."""

    def name(self, index: int, total: int) -> str:
        """The `index`-th (from 0) of `total` files."""
        if total == 1:
            return f"{self.stem}.{self.ending}"
        return f"{self.stem}-{index + 1:05d}-of-{total:05d}.{self.ending}"

    @property
    def index_name(self) -> str:
        return f"{self.stem}.{self.ending}.index.json"


def _safetensors(entries: Sequence[Entry], stem: str) -> FileLayout:
    return safetensors_layout(entries, {"format": "pt"})


MODEL_SAFETENSORS = Naming("model", "safetensors", _safetensors)
MODEL_BIN = Naming("pytorch_model", "bin", torch_layout)
CONSOLIDATED_SAFETENSORS = Naming("consolidated", "safetensors", _safetensors)


def consolidated_pth(entries: Sequence[Entry], rank: int) -> tuple[str, FileLayout]:
    """Meta's file of one model-parallel rank."""
    stem = f"consolidated.{rank:02d}"
    return f"{stem}.pth", torch_layout(entries, stem)


def pack(sizes: Sequence[int], limit: int) -> list[range]:
    """Runs of tensors, in order, of at most `limit` bytes together; a larger one stands alone."""
    runs: list[range] = []
    start = used = 0
    for i, size in enumerate(sizes):
        if i > start and used + size > limit:
            runs.append(range(start, i))
            start, used = i, 0
        used += size
    runs.append(range(start, len(sizes)))
    return runs


def index_json(naming: Naming, runs: Sequence[Sequence[Entry]], total_bytes: int) -> bytes:
    """The index that says which file holds which tensor."""
    weight_map = {
        name: naming.name(i, len(runs)) for i, run in enumerate(runs) for name, _, _ in run
    }
    return dump_json({"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
