"""A unit's tensors in the run's type, from its bytes on the device."""

from __future__ import annotations

import torch

from llamatools.reference.forward import Weights
from llamatools.reference.units import Unit


class Conversion:
    """Room for one matrix in the run's type: the largest of `units`, where any is of another."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._room = torch.empty(0, dtype=dtype, device=device)

    def prepare(self, largest: int) -> None:
        """Make room for so many elements."""
        if len(self._room) < largest:
            self._room = torch.empty(0, dtype=self._dtype, device=self._device)  # frees the old
            self._room = torch.empty(largest, dtype=self._dtype, device=self._device)

    def of(self, unit: Unit, memory: torch.Tensor) -> Weights:
        """The unit's tensors by name; a matrix is good until the next is asked for."""
        stored = {
            piece.name: memory[at : at + piece.nbytes]
            .view(getattr(torch, piece.value.dtype.torch))
            .view(piece.shape)
            for piece, at in unit.places
        }

        def weight(name: str) -> torch.Tensor | None:
            found = stored.get(name)
            if found is None or found.dtype == self._dtype:
                return found
            if found.dim() < 2:
                return found.to(self._dtype)
            return self._room[: found.numel()].view(found.shape).copy_(found)

        return weight


def largest_converted(unit: Unit, dtype: torch.dtype) -> int:
    """Elements of the largest matrix that is stored in another type."""
    others = [
        p.numel
        for p in unit.pieces
        if len(p.shape) > 1 and getattr(torch, p.value.dtype.torch) != dtype
    ]
    return max(others, default=0)
