"""From canonical tensors to model-parallel files: who gets which rows or columns.

Pure arithmetic on sizes; no tensors.
"""

from __future__ import annotations

from llamatools.errors import UsageError
from llamatools.layouts.table import Axis
from llamatools.spec import ModelSpec

Part = tuple[int, int, int]
"""(axis, start, stop)"""


def part(axis: Axis, shape: tuple[int, ...], rank: int, shards: int, kv_heads: int) -> Part:
    """What file `rank` of `shards` holds of a tensor of this shape.

    Runs end where rank·size/shards, rounded down, ends: even where the size is a multiple, and
    for vocabularies that are not, uneven by one. With more files than key-value heads, file r
    holds head r·kv_heads/shards, so that neighbours share one.
    """
    if axis == "copy":
        return 0, 0, shape[0]
    if axis == "kv" and shards > kv_heads:
        width = shape[0] // kv_heads
        head = rank * kv_heads // shards
        return 0, head * width, (head + 1) * width
    where = 1 if axis == "columns" else 0
    size = shape[where]
    return where, rank * size // shards, (rank + 1) * size // shards


def check_shards(spec: ModelSpec, shards: int) -> None:
    """UsageError where a model cannot be split over that many files."""
    reasons = [
        f"{shards} does not divide {what} ({size})"
        for what, size in (
            ("the heads", spec.n_heads),
            ("the feed-forward width", spec.ffn_dim),
            ("the model dimension", spec.dim),
        )
        if size % shards
    ]
    if shards > spec.vocab_size:
        reasons.append(f"the vocabulary has {spec.vocab_size} rows")
    if spec.n_kv_heads % shards and shards % spec.n_kv_heads:
        reasons.append(
            f"{shards} neither divides nor is a multiple of the key-value heads ({spec.n_kv_heads})"
        )
    if reasons:
        allowed = [n for n in range(1, spec.n_heads + 1) if not _blocked(spec, n)]
        raise UsageError(
            f"--shards {shards}: {'; '.join(reasons)}",
            hint=f"this model can be split over {', '.join(map(str, allowed))} files",
        )


def _blocked(spec: ModelSpec, n: int) -> bool:
    uneven = spec.n_heads % n or spec.ffn_dim % n or spec.dim % n
    return bool(uneven or n > spec.vocab_size or (spec.n_kv_heads % n and n % spec.n_kv_heads))
