"""What decides a model's memory: a ModelSpec, and what some models have beyond it.

Wider than what is converted: layers that look at images, experts and windows are known here, and
nowhere else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from llamatools.spec import ModelSpec


@dataclass(frozen=True)
class Layer:
    """One decoder layer, by what it stores and caches."""

    attention: Literal["self", "cross"] = "self"
    """"cross": keys and values are those of images, and no token adds to them."""
    window: int | None = None
    """Tokens it looks back at, at most (Llama 4's chunks); None: all of them."""
    experts: bool = False


@dataclass(frozen=True)
class Experts:
    """A mixture: `count` experts of `spec.ffn_dim`, a shared one, and a router."""

    count: int
    dense_ffn: int
    """Width of the feed-forward in layers without experts."""


@dataclass(frozen=True)
class Tower:
    """An image encoder and what projects its output to the decoder's width."""

    kind: Literal["mllama", "llama4"]
    dim: int
    ffn: int
    layers: int
    global_layers: int
    image: int
    """Pixels of a tile's side."""
    patch: int
    tiles: int
    aspect_ratios: int
    output: int
    """Width of what is projected."""
    adapter: int = 0
    """Width of Llama 4's adapter before the projection."""

    @property
    def positions(self) -> int:
        """Patches of a tile, and its class token."""
        return (self.image // self.patch) ** 2 + 1


@dataclass(frozen=True)
class Architecture:
    """A decoder, layer by layer. `spec.n_layers` counts all of them."""

    spec: ModelSpec
    layers: tuple[Layer, ...]
    experts: Experts | None = None
    tower: Tower | None = None
    extra_rows: int = 0
    """Rows of the embedding beyond the vocabulary, which the head lacks."""
    split_vocabulary: bool = True
    """Meta's files of the model split the embedding by rows (else by columns)."""

    @property
    def image_tokens(self) -> int:
        """Tokens that cross-attention caches for an image of as many tiles as there can be."""
        return self.tower.tiles * self.tower.positions if self.tower and self.crosses else 0

    @property
    def crosses(self) -> int:
        return sum(layer.attention == "cross" for layer in self.layers)

    @property
    def windowed(self) -> int:
        return sum(layer.window is not None for layer in self.layers)

    @property
    def counts(self) -> Counter[Layer]:
        """How many layers there are of each kind."""
        return Counter(self.layers)


def dense(spec: ModelSpec, *, split_vocabulary: bool = True) -> Architecture:
    """A plain Llama: every layer alike, attention to everything."""
    return Architecture(spec, (Layer(),) * spec.n_layers, split_vocabulary=split_vocabulary)
