"""Bytes of the key-value cache.

    batch · Σ over layers of 2 · ceil(tokens / block) · block · bytes(kv_heads · head_dim)

Keys and values are a row each for every token a layer keeps; a row is whole blocks of the format.
A layer with a window keeps no more tokens than that. Cross-attention keeps the tokens of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.memory.architecture import Architecture, Layer
from llamatools.memory.engines import PLAIN, Engine
from llamatools.memory.formats import Format


@dataclass(frozen=True)
class Cache:
    """What one rank caches: layers of each kind, with so many heads of the key-value heads."""

    layers: Mapping[Layer, int]
    heads: int
    head_dim: int
    image_tokens: int
    format: Format
    engine: Engine = PLAIN

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.format.row(self.heads * self.head_dim)

    @property
    def per_token(self) -> int:
        """Bytes that one more token takes, before any window is full."""
        return self.token_bytes * sum(n for k, n in self.layers.items() if k.attention == "self")

    @property
    def per_token_beyond(self) -> int:
        """The same where every window is full."""
        full = (n for k, n in self.layers.items() if k.attention == "self" and k.window is None)
        return self.token_bytes * sum(full)

    @property
    def per_image(self) -> int:
        """Bytes of one image of as many tiles as there can be, where the model cross-attends."""
        crosses = sum(n for k, n in self.layers.items() if k.attention == "cross")
        return self.token_bytes * crosses * self.image_tokens

    def nbytes(self, context: int, batch: int = 1, images: int = 0) -> int:
        """Of `batch` sequences of `context` tokens, with `images` images each."""
        tokens = 0
        for kind, n in self.layers.items():
            if kind.attention == "cross":
                tokens += n * self.engine.tokens(images * self.image_tokens, None)
            else:
                tokens += n * self.engine.tokens(context, kind.window)
        return batch * tokens * self.token_bytes


def whole_cache(a: Architecture, fmt: Format, engine: Engine = PLAIN) -> Cache:
    """The cache of the model on one device."""
    return Cache(a.counts, a.spec.n_kv_heads, a.spec.head_dim, a.image_tokens, fmt, engine)
