"""Hypothesis strategies: tiny models of every shape, and ways to run a conversion."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from support.tiny import STYLES, Tiny

some = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(max_examples=100, deadline=None)

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@st.composite
def models(draw: st.DrawFn) -> Tiny:
    """Head counts, widths, vocabularies, biases and types, in no relation to each other."""
    kv_heads = draw(st.sampled_from((1, 2, 3, 4)))
    style = draw(st.sampled_from(sorted(STYLES)))
    return Tiny(
        style=style,
        heads=kv_heads * draw(st.sampled_from((1, 2, 4))),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 5)),
        layers=draw(st.integers(1, 3)),
        ffn=4 * draw(st.integers(1, 20)),
        vocab=draw(st.integers(16, 60)),
        dtype=draw(st.sampled_from(DTYPES)),
        norm_dtype=draw(st.sampled_from((None, torch.float32))),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tied=draw(st.booleans()),
    )
