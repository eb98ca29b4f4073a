"""The forward pass of a Llama, in plain PyTorch.

    x = embedding[tokens]
    for each layer:
        x = x + Wo · attend(Wq · n, Wk · n, Wv · n)           with n = norm(x)
        x = x + Wdown · (silu(Wgate · n) * (Wup · n))         with n = norm(x)
    logits = head · norm(x)

Touvron et al. 2023 (LLaMA), section 2.2: RMSNorm before each half (Zhang and Sennrich 2019),
SwiGLU (Shazeer 2020), rotary positions (rope.py); grouped heads as in Ainslie et al. 2023.
Matrices are canonical: (out, in), and heads of q and k are turned half against half, as in
transformers.

Prompts go through side by side: a matrix is fetched once for all of them, and each has a product
of its own, so that no prompt's bits depend on the others. n: positions of a prompt, d: dim,
H, K: heads and key-value heads, D: head_dim, F: ffn_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
import torch.nn.functional as F

from llamatools.reference.observe import Kind
from llamatools.reference.rope import Rope
from llamatools.reference.settings import at_least_fp32
from llamatools.spec import ModelSpec

Prompts = list[torch.Tensor]
"""(n, ...) for each prompt."""

Weights = Callable[[str], "torch.Tensor | None"]
"""A tensor of the layer by its canonical name, in the run's type, until the next is asked for."""

SCORES = 1 << 23
"""Attention scores at once, at most: rows of queries are taken in tiles."""


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * gain, over the last axis."""
    wide = x.to(at_least_fp32(x.dtype))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * gain


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """(n, heads, D): elements j and j + D/2 turned by the angle of their position and j."""
    cos, sin = rope  # (n, 1, D/2)
    a, b = x.to(cos.dtype).chunk(2, -1)  # (n, heads, D/2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def tile_rows(n: int, n_heads: int) -> int:
    """Query rows whose scores are taken at once."""
    return max(1, min(n, SCORES // (n * n_heads)))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q·kᵀ / sqrt(D)) · v, each position over itself and those before it in the prompt.

    q (n, H, D), k and v (n, K, D) -> (n, H·D). Query heads i·H/K .. (i+1)·H/K share kv head i.
    """
    n, n_heads, head_dim = q.shape
    n_kv_heads = k.shape[1]
    q = q.reshape(n, n_kv_heads, -1, head_dim).permute(1, 2, 0, 3)  # (n, H, D) -> (K, H/K, n, D)
    k = k.permute(1, 2, 0)  # (n, K, D) -> (K, D, n)
    v = v.transpose(0, 1)  # (n, K, D) -> (K, n, D)
    height = tile_rows(n, n_heads)
    tiles = [_tile(q[:, :, i : i + height], k, v, i) for i in range(0, n, height)]
    return torch.cat(tiles)


def _tile(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int) -> torch.Tensor:
    """Queries start .. stop over the keys before stop: (K, H/K, rows, D) -> (rows, H·D)."""
    n_kv_heads, _, rows, head_dim = q.shape
    stop = start + rows
    q = q.reshape(n_kv_heads, -1, head_dim)  # (K, H/K·rows, D)
    scores = torch.bmm(q, k[:, :, :stop]).div_(sqrt(head_dim))  # (K, H/K·rows, stop)
    later = torch.ones(rows, stop, dtype=torch.bool, device=q.device).triu_(start + 1)
    scores.view(n_kv_heads, -1, rows, stop).masked_fill_(later, float("-inf"))
    shares = scores.softmax(-1, dtype=at_least_fp32(q.dtype)).to(q.dtype)
    found = torch.bmm(shares, v[:, :stop])  # (K, H/K·rows, D)
    found = found.view(n_kv_heads, -1, rows, head_dim)  # (K, H/K, rows, D)
    return found.permute(2, 0, 1, 3).reshape(rows, -1)  # (rows, H·D)


def linear(xs: Prompts, w: Weights, name: str) -> Prompts:
    """x · weightᵀ + bias"""
    bias, weight = w(f"{name}.bias"), w(f"{name}.weight")
    assert weight is not None
    return [F.linear(x, weight, bias) for x in xs]


def _normed(xs: Prompts, w: Weights, name: str, eps: float) -> Prompts:
    gain = w(f"{name}.weight")
    assert gain is not None
    return [rms_norm(x, gain, eps) for x in xs]


def _add(xs: Prompts, more: Prompts) -> Prompts:
    return [y.add_(x) for x, y in zip(xs, more, strict=True)]


def attention_half(xs: Prompts, w: Weights, ropes: Sequence[Rope], spec: ModelSpec) -> Prompts:
    """(n, d) of each prompt -> the same, after the attention of a layer."""
    normed = _normed(xs, w, "attention.norm", spec.norm_eps)
    q, k, v = (linear(normed, w, f"attention.{name}") for name in "qkv")  # (n, H·D), (n, K·D) twice
    del normed
    heads = []
    for i, rope in enumerate(ropes):
        a, b, c = (y[i].view(len(y[i]), -1, spec.head_dim) for y in (q, k, v))  # (n, H or K, D)
        heads.append(attend(rotate(a, rope), rotate(b, rope), c))
    return _add(xs, linear(heads, w, "attention.o"))


def mlp_half(xs: Prompts, w: Weights, ropes: Sequence[Rope], spec: ModelSpec) -> Prompts:
    """(n, d) of each prompt -> the same, after the feed-forward of a layer."""
    normed = _normed(xs, w, "mlp.norm", spec.norm_eps)
    gates = linear(normed, w, "mlp.gate")  # (n, F)
    ups = linear(normed, w, "mlp.up")  # (n, F)
    del normed
    wide = [F.silu(a, inplace=True).mul_(b) for a, b in zip(gates, ups, strict=True)]
    del gates, ups
    return _add(xs, linear(wide, w, "mlp.down"))


Half = Callable[[Prompts, Weights, Sequence[Rope], ModelSpec], Prompts]

HALVES: tuple[tuple[Kind, Half], ...] = (("attention", attention_half), ("mlp", mlp_half))
"""What a layer does to the residual stream, in order; each under the name of its point."""
