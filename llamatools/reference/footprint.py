"""How much memory of the device a forward pass takes at most, reckoned before it runs.

Two layers as they are stored, the largest matrix in the run's type, and what prompts take on their
way. In the head, some of its rows stand for a layer, and logits are what is on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from llamatools.checkpoint import Checkpoint
from llamatools.errors import IOFailed, UsageError
from llamatools.reference import units
from llamatools.reference.forward import tile_rows
from llamatools.reference.observe import Prompt
from llamatools.reference.packing import head_passes, together
from llamatools.reference.reading import beside
from llamatools.reference.settings import Settings, at_least_fp32
from llamatools.reference.units import Unit
from llamatools.reference.weights import largest_converted
from llamatools.spec import ModelSpec
from llamatools.text import nbytes

_WORKSPACES = 96 << 20
"""What CUDA's libraries of matrix products take from torch's memory."""


@dataclass(frozen=True)
class Phase:
    """Bytes."""

    weights: int
    matrix: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.matrix + self.activations


@dataclass(frozen=True)
class Footprint:
    """Bytes of the device at most; on GPUs, what the driver keeps for itself comes on top."""

    layers: Phase
    head: Phase
    workspaces: int
    host: int
    """Buffers of the host beside the device's memory."""

    @property
    def total(self) -> int:
        return max(self.layers.total, self.head.total) + self.workspaces

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "total": self.total}


def footprint(
    source: Checkpoint,
    prompts: Sequence[Prompt],
    settings: Settings,
    device: torch.device,
    layers: Sequence[int] | None = None,
) -> Footprint:
    """Of one process, which computes `layers` and the head; None: all layers."""
    spec = source.spec
    size, wide = (t.itemsize for t in (settings.torch_dtype, at_least_fp32(settings.torch_dtype)))
    mine = [units.layer(source, i) for i in (range(spec.n_layers) if layers is None else layers)]
    head = list(units.head_units(source))
    everyone = sum(len(p.tokens) for p in prompts)
    hidden = everyone * (size * spec.dim + wide * spec.head_dim)  # and how each is turned
    longest = max(len(p.tokens) for p in prompts)
    tokens = max(sum(len(prompts[i].tokens) for i in run) for run in together(prompts))
    norm = 3 * wide * longest * spec.dim
    half = norm + max(_attention(spec, tokens, longest, size, wide), _mlp(spec, tokens, size))
    kept = sum(u.size for u in (*mine, *head)) if settings.resident else 0
    matrix = size * max(largest_converted(u, settings.torch_dtype) for u in (*mine, *head))
    logits = _logits(spec, prompts, size, head[0], on_cpu=device.type == "cpu")
    return Footprint(
        Phase(kept or _two(mine), matrix, hidden + half),
        Phase(kept or _two(head), matrix, hidden + max(logits, norm)),
        _WORKSPACES if device.type == "cuda" else 0,
        0 if device.type == "cpu" else _two([*mine, *head]),
    )


def _two(them: Sequence[Unit]) -> int:
    return 2 * max((u.size for u in them), default=0)


def _attention(spec: ModelSpec, tokens: int, longest: int, size: int, wide: int) -> int:
    """Norms, q, k, v, the heads' results, and what one prompt takes between them."""
    rows = tile_rows(longest, spec.n_heads)
    scores = rows * longest * spec.n_heads * (size + wide + (wide if size < wide else 0))
    turned = 4 * wide * longest * (spec.q_dim + spec.kv_dim)
    tiles = rows * (longest + 3 * size * spec.q_dim) + 2 * size * longest * spec.kv_dim
    tiles += 0 if rows == longest else size * longest * spec.q_dim
    kept = size * tokens * (2 * spec.dim + 2 * spec.q_dim + 2 * spec.kv_dim)
    return kept + max(turned, scores + tiles + turned // 4)


def _mlp(spec: ModelSpec, tokens: int, size: int) -> int:
    """Norms, gates and ups, then what comes of them."""
    return size * tokens * (2 * spec.dim + 2 * spec.ffn_dim)


def _logits(
    spec: ModelSpec, prompts: Sequence[Prompt], size: int, first: Unit, *, on_cpu: bool
) -> int:
    """Those the head is read once for, and the product that is put into them."""
    passes = head_passes(prompts, size * spec.vocab_size, on_cpu=on_cpu)
    rows = max(sum(len(r.rows) for r in run) for run in passes)
    highest = max(len(r.rows) for run in passes for r in run)
    return size * (rows * spec.vocab_size + highest * first.pieces[0].shape[0])


def bytes_read(
    source: Checkpoint, prompts: Sequence[Prompt], settings: Settings, device: torch.device
) -> int:
    """Of weights, by one process that computes everything, once."""
    spec = source.spec
    row_bytes = spec.vocab_size * settings.torch_dtype.itemsize
    passes = len(head_passes(prompts, row_bytes, on_cpu=device.type == "cpu"))
    layers = sum(units.layer(source, i).nbytes for i in range(spec.n_layers))
    head = sum(u.nbytes for u in units.head_units(source))
    return layers + (1 if settings.resident else passes) * head + beside(source, prompts)


def check_footprint(found: Footprint, settings: Settings, device: torch.device) -> None:
    """Refuse what will not fit: UsageError where a cap is in the way, IOFailed where others are."""
    needed = f"the forward pass needs {nbytes(found.total)} on {device}"
    hint = "fewer or shorter prompts take less"
    if settings.resident:
        hint = "without --resident, weights are streamed"
    cap = settings.max_device_memory
    if cap is not None and found.total > cap:
        raise UsageError(f"{needed}, and {nbytes(cap)} are allowed", hint=hint)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        if found.total > free:
            raise IOFailed(f"{needed}, and {nbytes(free)} are free", hint=hint)
