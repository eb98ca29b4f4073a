"""Bytes of the cache: what transformers really holds after a forward, and the plain formula."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from llamatools.memory.architecture import Architecture, Layer, dense
from llamatools.memory.config import read_hf
from llamatools.memory.engines import ENGINES
from llamatools.memory.formats import FORMATS
from llamatools.memory.kv import Cache, whole_cache
from llamatools.memory.registry import by_name
from llamatools.spec import ModelSpec

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _spec(heads: int, kv_heads: int, layers: int = 3) -> ModelSpec:
    return ModelSpec(48, layers, heads, kv_heads, 8, 64, 96, 1e-5, 1e4, None, 512, False)


def _held(cache: Any) -> int:
    """Bytes of every tensor in a cache of transformers."""
    return sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))


def _forward(spec: ModelSpec, dtype: torch.dtype, batch: int, tokens: int) -> Any:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=spec.dim,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.ffn_dim,
        vocab_size=spec.vocab_size,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.zeros(batch, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (6, 1)], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_transformers_holds(heads: int, kv_heads: int, dtype: str) -> None:
    spec = _spec(heads, kv_heads)
    held = _held(_forward(spec, TYPES[dtype], 2, 37))
    cache = whole_cache(dense(spec), FORMATS[dtype], ENGINES["hf"])
    assert cache.nbytes(37, 2) == held
    assert cache.nbytes(38, 2) != held
    if kv_heads != heads:  # the control: who forgets that heads are shared is told apart
        unshared = dense(replace(spec, n_kv_heads=heads))
        assert whole_cache(unshared, FORMATS[dtype]).nbytes(37, 2) == held * heads // kv_heads


def test_what_transformers_holds_of_chunks() -> None:
    """Llama 4: layers with chunks keep less; and the control, that they keep not all."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=8, intermediate_size=32, intermediate_size_mlp=64, vocab_size=96,
        num_local_experts=2, attention_chunk_size=16, pad_token_id=None,
    )  # fmt: skip
    from transformers import DynamicCache

    model = Llama4ForCausalLM(config).eval()
    a = Architecture(_spec(6, 2, 4), (*(Layer(window=16),) * 3, Layer()))
    for tokens in (5, 15, 16, 17, 40):
        cache = DynamicCache(config=config)
        with torch.no_grad():
            model(torch.zeros(2, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
        found = whole_cache(a, FORMATS["fp32"], ENGINES["hf"]).nbytes(tokens, 2)
        assert found == _held(cache), tokens
        everything = whole_cache(dense(a.spec), FORMATS["fp32"]).nbytes(tokens, 2)
        assert (everything > found) == (tokens > 15)


CARDS = {
    # bytes a token in 16 bits: 2 tensors x layers x kv heads x head width x 2 bytes
    "llama-2-7b": 2 * 32 * 32 * 128 * 2,
    "llama-2-70b": 2 * 80 * 8 * 128 * 2,
    "llama-3.1-8b": 2 * 32 * 8 * 128 * 2,
    "llama-3.1-70b": 2 * 80 * 8 * 128 * 2,
    "llama-3.1-405b": 2 * 126 * 8 * 128 * 2,
    "llama-3.2-1b": 2 * 16 * 8 * 64 * 2,
    "llama-3.2-3b": 2 * 28 * 8 * 128 * 2,
    "llama-3.2-11b-vision": 2 * 32 * 8 * 128 * 2,
    "llama-3.2-90b-vision": 2 * 80 * 8 * 128 * 2,
}


def _cache(name: str, fmt: str = "bf16", engine: str = "none") -> Cache:
    named = by_name(name)
    assert named is not None
    return whole_cache(named.architecture, FORMATS[fmt], ENGINES[engine])


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("tokens", [2048, 4096, 8192, 32768, 131072])
def test_the_formula(name: str, tokens: int) -> None:
    cache = _cache(name)
    assert cache.per_token == CARDS[name]
    assert cache.nbytes(tokens) == tokens * CARDS[name]
    assert cache.nbytes(tokens, 7) == 7 * tokens * CARDS[name]


def test_blocks() -> None:
    """A token more than a block's worth takes a whole block."""
    one = _cache("llama-3.1-8b").per_token
    for engine, block in (("none", 1), ("hf", 1), ("vllm", 16), ("llama.cpp", 256), ("mlx", 256)):
        cache = _cache("llama-3.1-8b", engine=engine)
        assert cache.nbytes(1024) == 1024 * one
        assert cache.nbytes(1025) == (1024 + block) * one


def test_formats() -> None:
    base = _cache("llama-3.1-8b").per_token
    found = {f: _cache("llama-3.1-8b", f).per_token / base for f in FORMATS}
    assert found == {
        "fp32": 2, "bf16": 1, "fp16": 1, "fp8": 1 / 2, "int8": 1 / 2, "int4": 0.5625 / 2,
        "q8_0": 1.0625 / 2, "q5_1": 0.75 / 2, "q5_0": 0.6875 / 2, "q4_1": 0.625 / 2,
        "q4_0": 0.5625 / 2, "iq4_nl": 0.5625 / 2,
    }  # fmt: skip


def test_mlx_quantises_in_groups_of_64() -> None:
    base = _cache("llama-3.1-8b").per_token
    for name, size in (("int8", 1.0625), ("int4", 0.5625)):
        fmt = ENGINES["mlx"].format(name)
        assert fmt.per_element == size
        named = by_name("llama-3.1-8b")
        assert named is not None
        assert whole_cache(named.architecture, fmt).per_token == base * size / 2
    assert ENGINES["vllm"].format("int4") == FORMATS["int4"]


def test_what_transformers_holds_of_images() -> None:
    """Llama 3.2 vision: cross-attention keeps every tile's tokens, whatever the text."""
    from transformers import DynamicCache, MllamaConfig, MllamaForConditionalGeneration

    config = MllamaConfig(
        text_config={
            "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
            "cross_attention_layers": [1, 3], "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 3, "num_global_layers": 2,
            "attention_heads": 2, "intermediate_size": 24, "image_size": 28, "patch_size": 14,
            "vision_output_dim": 48, "intermediate_layers_indices": [0, 1],
        },
        image_token_index=63,
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config).eval()
    described = read_hf(config.to_dict())
    for batch, images, tokens in ((1, 1, 7), (2, 2, 9)):
        cache = DynamicCache(config=config)
        with torch.no_grad():
            model(
                input_ids=torch.ones(batch, tokens, dtype=torch.long),
                pixel_values=torch.zeros(batch, images, 4, 3, 28, 28),
                aspect_ratio_ids=torch.ones(batch, images, dtype=torch.long),
                aspect_ratio_mask=torch.ones(batch, images, 4, dtype=torch.long),
                cross_attention_mask=torch.ones(batch, tokens, images, 4, dtype=torch.long),
                past_key_values=cache,
                use_cache=True,
            )
        found = whole_cache(described.architecture, FORMATS["fp32"], ENGINES["hf"])
        assert found.nbytes(tokens, batch, images) == _held(cache)
        assert found.nbytes(tokens, batch, images - 1) < _held(cache)


def test_images() -> None:
    """6,404 tokens of four tiles, in the 8 layers that look at them, whatever the text's length."""
    cache = _cache("llama-3.2-11b-vision")
    assert cache.per_image == 8 * 6404 * 2 * 8 * 128 * 2
    assert cache.nbytes(1000, 3, images=2) == 3 * (1000 * cache.per_token + 2 * cache.per_image)
    assert _cache("llama-3.1-8b").per_image == 0


def test_chunks() -> None:
    """Scout: 36 of 48 layers forget what is behind 8,192 tokens."""
    cache = _cache("llama-4-scout")
    one = 2 * 8 * 128 * 2
    assert (cache.per_token, cache.per_token_beyond) == (48 * one, 12 * one)
    assert cache.nbytes(8192) == 8192 * 48 * one
    assert cache.nbytes(131072) == (131072 * 12 + 8192 * 36) * one


def test_rows_are_whole_blocks() -> None:
    cache = Cache(Counter({Layer(): 1}), 2, 6, 0, FORMATS["q8_0"])
    assert cache.per_token == 2 * 34
