"""What a checkpoint's config file says about the model, before its tensors are asked."""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.spec import RopeScaling


@dataclass(frozen=True)
class Claims:
    """Values as the file states them; None where it is silent.

    `scaled` says that rotary frequencies are scaled by a factor the file does not state, as
    Meta's `use_scaled_rope` does.
    """

    source: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None
    head_dim: int | None
    ffn_dim: int | None
    vocab_size: int | None
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    scaled: bool = False
    context: int | None = None
    tied: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    dtype: str | None = None
    q_dim: int | None = None
    """Rows that all query heads have together, where the layout fixes it."""
    notes: tuple[str, ...] = ()
