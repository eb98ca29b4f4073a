"""Parameters of every released model: published totals, and what transformers would build."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamatools.memory.architecture import Architecture
from llamatools.memory.parameters import by_group, weights
from llamatools.memory.registry import MEMORY_ONLY, by_name, names

PUBLISHED = {
    "llama-1-7b": 6_738_415_616,
    "llama-1-13b": 13_015_864_320,
    "llama-1-33b": 32_528_943_616,
    "llama-1-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "code-llama-7b": 6_738_546_688,
    "code-llama-13b": 13_016_028_160,
    "code-llama-34b": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.2-11b-vision": 10_670_220_835,
}
"""Totals of the releases' safetensors files, as hubs show them."""


def _architecture(name: str) -> Architecture:
    named = by_name(name)
    assert named is not None
    return named.architecture


def _total(a: Architecture) -> int:
    return sum(w.numel for w in weights(a))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    assert _total(_architecture(name)) == PUBLISHED[name]


def test_groups_are_all_of_it() -> None:
    for name in names():
        every = weights(_architecture(name))
        assert sum(by_group(every).values()) == sum(w.numel for w in every)


def _dense_config(a: Architecture) -> Any:
    from transformers import LlamaConfig

    s = a.spec
    return LlamaConfig(
        hidden_size=s.dim,
        num_hidden_layers=s.n_layers,
        num_attention_heads=s.n_heads,
        num_key_value_heads=s.n_kv_heads,
        head_dim=s.head_dim,
        intermediate_size=s.ffn_dim,
        vocab_size=s.vocab_size,
        tie_word_embeddings=s.tied,
        attention_bias=s.attention_bias,
        mlp_bias=s.mlp_bias,
    )


def _built(model: Any, config: Any) -> int:
    """Parameters of transformers' own module; nothing is allotted."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in model(config).parameters())


def _dense_total(a: Architecture) -> int:
    from transformers import LlamaForCausalLM

    return _built(LlamaForCausalLM, _dense_config(a))


DENSE = sorted(set(names()) - {m.key for m in MEMORY_ONLY} - {n for n in names() if "llama-4" in n})


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_model_as_transformers_builds_it(name: str) -> None:
    a = _architecture(name)
    assert _dense_total(a) == _total(a)


@pytest.mark.parametrize(
    "changes", [{}, {"tied": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_a_small_model_as_transformers_builds_it(changes: dict[str, bool]) -> None:
    a = _architecture("llama-3.2-1b")
    spec = replace(
        a.spec, dim=48, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=10, ffn_dim=56,
        vocab_size=101, tied=False,
    )  # fmt: skip
    a = Architecture(replace(spec, **changes), a.layers[:3])
    assert _dense_total(a) == _total(a)
    # The control: one that forgets what ties and biases do is told apart.
    wrong = replace(a, spec=replace(a.spec, tied=not a.spec.tied))
    assert _dense_total(a) != _total(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3.2-11b-vision", "llama-3.2-90b-vision"])
def test_vision_models_as_transformers_builds_them(name: str) -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    a = _architecture(name)
    crosses = [i for i, layer in enumerate(a.layers) if layer.attention == "cross"]
    text = {
        "hidden_size": a.spec.dim,
        "num_hidden_layers": a.spec.n_layers,
        "num_attention_heads": a.spec.n_heads,
        "intermediate_size": a.spec.ffn_dim,
        "cross_attention_layers": crosses,
    }
    config = MllamaConfig(vision_config={"image_size": 560}, text_config=text)
    assert _built(MllamaForConditionalGeneration, config) == _total(a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("llama-4-scout", {"num_local_experts": 16, "interleave_moe_layer_step": 1}),
        ("llama-4-maverick", {"num_local_experts": 128, "interleave_moe_layer_step": 2}),
    ],
)
def test_mixtures_as_transformers_builds_them(name: str, experts: dict[str, int]) -> None:
    from transformers import Llama4Config, Llama4ForConditionalGeneration

    text = {
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "vocab_size": 202048,
        "pad_token_id": None,
        **experts,
    }
    vision = {
        "hidden_size": 1408, "image_size": 336, "num_hidden_layers": 34,
        "intermediate_size": 5632, "vision_output_dim": 4096,
    }  # fmt: skip
    config = Llama4Config(text_config=text, vision_config=vision)
    assert _built(Llama4ForConditionalGeneration, config) == _total(_architecture(name))
