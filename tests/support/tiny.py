"""Random tiny Llamas, and what each layout's files must hold: written without llamatools.

Weights are random bits, so NaN payloads, infinities and subnormals are among them: whatever
computes with a value, instead of moving it, gets caught. Row order and shards are spelled out as
lists of indices, one head and one rank at a time, so that they can be checked by eye.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch

Tensors = dict[str, torch.Tensor]

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass(frozen=True)
class Style:
    """What the releases of one generation share."""

    eps: float
    theta: float
    split: str
    """How files share the embedding: "columns" or "rows"."""
    factor: float | None = None


STYLES = {
    "llama-1": Style(1e-6, 1e4, "columns"),
    "llama-2": Style(1e-5, 1e4, "columns"),
    "code-llama": Style(1e-5, 1e6, "columns"),
    "llama-3": Style(1e-5, 5e5, "rows"),
    "llama-3.1": Style(1e-5, 5e5, "rows", factor=8.0),
    "llama-3.2": Style(1e-5, 5e5, "rows", factor=32.0),
}


@dataclass(frozen=True)
class Tiny:
    """A model, by its sizes. `truth` holds its tensors under transformers' names."""

    style: str = "llama-3"
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 6
    layers: int = 2
    ffn: int = 48
    vocab: int = 40
    dtype: torch.dtype = torch.bfloat16
    norm_dtype: torch.dtype | None = None
    """Type of the norms where it is another."""
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False

    def __str__(self) -> str:
        """An id for parametrised tests: what differs from the defaults."""
        parts = [self.style, f"{self.heads}of{self.kv_heads}x{self.head_dim}"]
        parts += [str(self.dtype).split(".")[1]]
        parts += [f"norms-{str(self.norm_dtype).split('.')[1]}"] if self.norm_dtype else []
        parts += ["bias"] if self.attention_bias else []
        parts += ["mlpbias"] if self.mlp_bias else []
        parts += ["tied"] if self.tied else []
        return "-".join([*parts, f"v{self.vocab}"])

    @property
    def constants(self) -> Style:
        return STYLES[self.style]

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    @cached_property
    def truth(self) -> Tensors:
        """Every tensor under transformers' names, rows in its order; a tied head is left out."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.dim)}
        for i in range(self.layers):
            a, m = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
            shapes[f"model.layers.{i}.input_layernorm.weight"] = (self.dim,)
            shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (self.dim,)
            for name, rows, columns in (
                (a + "q_proj", self.dim, self.dim),
                (a + "k_proj", self.kv_dim, self.dim),
                (a + "v_proj", self.kv_dim, self.dim),
                (a + "o_proj", self.dim, self.dim),
                (m + "gate_proj", self.ffn, self.dim),
                (m + "up_proj", self.ffn, self.dim),
                (m + "down_proj", self.dim, self.ffn),
            ):
                shapes[name + ".weight"] = (rows, columns)
                if self.attention_bias if name.startswith(a) else self.mlp_bias:
                    shapes[name + ".bias"] = (rows,)
        shapes["model.norm.weight"] = (self.dim,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.dim)
        return {name: self._draw(name, shape) for name, shape in shapes.items()}

    def _draw(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = self.norm_dtype if self.norm_dtype and "norm" in name else self.dtype
        bits = torch.iinfo(BITS[dtype])
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randint(bits.min, bits.max, shape, generator=generator, dtype=BITS[dtype])
        return drawn.view(dtype)


def finite(model: Tiny) -> Tiny:
    """Numbers in place of random bits, since NaN would swallow every sum."""
    generator = torch.Generator().manual_seed(5)
    drawn = {n: torch.randn(t.shape, generator=generator) for n, t in model.truth.items()}
    model.__dict__["truth"] = {n: t.to(model.dtype) for n, t in drawn.items()}
    return model


def as_bits(t: torch.Tensor) -> torch.Tensor:
    """The tensor's elements as integers: equal where, and only where, the bytes are."""
    return t.contiguous().view(BITS[t.dtype])


def in_pairs(t: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in Meta's order, from transformers' order.

    transformers rotates row j of a head together with row j + D/2; Meta's code wants the two side
    by side.
    """
    width = t.shape[0] // heads
    order = []
    for head in range(heads):
        for j in range(width // 2):
            order += [head * width + j, head * width + j + width // 2]
    return t[torch.tensor(order)]


_IN_LAYER = {
    "attention_norm.weight": ("input_layernorm.weight", "copy"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "copy"),
    "attention.wq.weight": ("self_attn.q_proj.weight", "rows"),
    "attention.wk.weight": ("self_attn.k_proj.weight", "heads"),
    "attention.wv.weight": ("self_attn.v_proj.weight", "heads"),
    "attention.wo.weight": ("self_attn.o_proj.weight", "columns"),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", "rows"),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", "columns"),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", "rows"),
    "attention.wq.bias": ("self_attn.q_proj.bias", "rows"),
    "attention.wk.bias": ("self_attn.k_proj.bias", "heads"),
    "attention.wv.bias": ("self_attn.v_proj.bias", "heads"),
    "attention.wo.bias": ("self_attn.o_proj.bias", "copy"),
    "feed_forward.w1.bias": ("mlp.gate_proj.bias", "rows"),
    "feed_forward.w2.bias": ("mlp.down_proj.bias", "copy"),
    "feed_forward.w3.bias": ("mlp.up_proj.bias", "rows"),
}


def meta_rank(model: Tiny, rank: int, files: int) -> Tensors:
    """What Meta's file `rank` of `files` holds. Uneven parts: the later files hold one more."""

    def cut(t: torch.Tensor, how: str) -> torch.Tensor:
        if how == "copy":
            return t
        if how == "heads":
            width = model.head_dim
            if files > model.kv_heads:  # ranks r, r+1, ... share one head
                mine = [rank // (files // model.kv_heads)]
            else:
                each = model.kv_heads // files
                mine = list(range(rank * each, (rank + 1) * each))
            return torch.cat([t[h * width : (h + 1) * width] for h in mine])
        axis = 0 if how == "rows" else 1
        size = t.shape[axis]
        start, stop = rank * size // files, (rank + 1) * size // files
        return t[start:stop] if axis == 0 else t[:, start:stop]

    truth = model.truth
    embedding = truth["model.embed_tokens.weight"]
    out = {"tok_embeddings.weight": cut(embedding, model.constants.split)}
    for i in range(model.layers):
        for native, (name, how) in _IN_LAYER.items():
            whole = truth.get(f"model.layers.{i}.{name}")
            if whole is None:
                continue
            if ".wq." in native:
                whole = in_pairs(whole, model.heads)
            if ".wk." in native:
                whole = in_pairs(whole, model.kv_heads)
            out[f"layers.{i}.{native}"] = cut(whole, how)
    out["norm.weight"] = truth["model.norm.weight"]
    out["output.weight"] = cut(truth.get("lm_head.weight", embedding), "rows")
    return {name: t.clone() for name, t in out.items()}
