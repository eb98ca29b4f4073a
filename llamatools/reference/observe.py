"""What a forward pass shows on its way: hidden states at named points, and logits.

The forward pass knows nothing of golden files and they know nothing of it: both know this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

Kind = Literal["embedding", "attention", "mlp", "norm"]


@dataclass(frozen=True)
class Prompt:
    """Token ids and the position of each; positions grow, and may have gaps."""

    name: str
    tokens: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """A place in the forward pass.

    "embedding": rows of the embedding. "attention", "mlp": the residual stream after that half of
    layer `layer`. "norm": after the final norm, what the head is given.
    """

    kind: Kind
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"layer {self.layer} {self.kind}"


class Observer(Protocol):
    """Shown every prompt at every point, in the order of the forward pass: all prompts go through
    a layer before the next."""

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        """(positions, dim), in the type and on the device of the run; not to be changed or kept."""
        ...

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        """(len(rows), vocabulary) in the run's type: of these of the prompt's tokens."""
        ...
