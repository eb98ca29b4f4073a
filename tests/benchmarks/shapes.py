"""The models the benchmark converts: their numbers, and one row for each tensor.

Standard library only: the measuring process imports this and has to stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Row:
    """One tensor. `heads` is set where Meta's row order differs from HF's (q and k)."""

    meta: str
    hf: str
    shape: tuple[int, ...]
    heads: int | None = None

    @property
    def nbytes(self) -> int:
        return 2 * prod(self.shape)  # bf16


@dataclass(frozen=True)
class Shape:
    """A Llama with an output matrix of its own. `rope_factor` is None without rope scaling."""

    name: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn: int
    vocab: int
    multiple_of: int
    ffn_dim_multiplier: float
    rope_factor: float | None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def parameters(self) -> int:
        return self.nbytes // 2

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows())

    def rows(self) -> list[Row]:
        """Every tensor, in the order in which a Meta file holds them."""
        layers = [row for i in range(self.n_layers) for row in self._layer(i)]
        table = (self.vocab, self.dim)
        return [
            Row("tok_embeddings.weight", "model.embed_tokens.weight", table),
            *layers,
            Row("norm.weight", "model.norm.weight", (self.dim,)),
            Row("output.weight", "lm_head.weight", table),
        ]

    def _layer(self, i: int) -> list[Row]:
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        meta, hf = f"layers.{i}", f"model.layers.{i}"

        def row(meta_name: str, hf_name: str, *shape: int, heads: int | None = None) -> Row:
            return Row(f"{meta}.{meta_name}.weight", f"{hf}.{hf_name}.weight", shape, heads)

        return [
            row("attention.wq", "self_attn.q_proj", q, self.dim, heads=self.n_heads),
            row("attention.wk", "self_attn.k_proj", kv, self.dim, heads=self.n_kv_heads),
            row("attention.wv", "self_attn.v_proj", kv, self.dim),
            row("attention.wo", "self_attn.o_proj", self.dim, q),
            row("feed_forward.w1", "mlp.gate_proj", self.ffn, self.dim),
            row("feed_forward.w3", "mlp.up_proj", self.ffn, self.dim),
            row("feed_forward.w2", "mlp.down_proj", self.dim, self.ffn),
            row("attention_norm", "input_layernorm", self.dim),
            row("ffn_norm", "post_attention_layernorm", self.dim),
        ]


SHAPES = {
    shape.name: shape
    for shape in (
        # Too small to time anything by; for trying the benchmark itself.
        Shape("tiny", 512, 4, 8, 2, 1536, 16000, 256, 1.0, None),
        # Llama 3.2 1B, but for an output matrix that differs from the embedding.
        Shape("1b", 2048, 16, 32, 8, 8192, 128256, 256, 1.5, 32.0),
        Shape("8b", 4096, 32, 32, 8, 14336, 128256, 1024, 1.3, 8.0),
    )
}
