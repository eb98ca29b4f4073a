"""ModelSpec: the architecture of a Llama as numbers, the same for every layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched. `kind` is the name HF configs use.

    The last three fields belong to kind "llama3" alone.
    """

    kind: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_context: int | None = None


def llama3_scaling(factor: float) -> RopeScaling:
    """The scaling every Llama from 3.1 on uses; only its factor differs between models."""
    return RopeScaling("llama3", float(factor), 1.0, 4.0, 8192)


@dataclass(frozen=True)
class ModelSpec:
    """Every count a checkpoint's tensors obey, and the constants its forward pass needs."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    context: int | None
    """Longest sequence the model was made for; None where nothing tells."""
    tied: bool
    """The output head is the embedding."""
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def q_dim(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def attention(self) -> str:
        """MHA, GQA or MQA."""
        if self.n_kv_heads == self.n_heads:
            return "MHA"
        return "MQA" if self.n_kv_heads == 1 else "GQA"

    def to_json(self) -> dict[str, object]:
        return asdict(self)
