"""Hugging Face's layout: the names of transformers' LlamaForCausalLM, rotary rows in halves,
never split by model-parallel rank. It is the canonical form under other names."""

from __future__ import annotations

from llamatools.layouts.table import Layout, Row

_L = "model.layers.{i}."
_A = _L + "self_attn."
_M = _L + "mlp."

HF = Layout(
    "hf",
    (
        Row("embedding.weight", "model.embed_tokens.weight"),
        Row("layers.{i}.attention.norm.weight", _L + "input_layernorm.weight"),
        Row("layers.{i}.attention.q.weight", _A + "q_proj.weight"),
        Row("layers.{i}.attention.q.bias", _A + "q_proj.bias"),
        Row("layers.{i}.attention.k.weight", _A + "k_proj.weight"),
        Row("layers.{i}.attention.k.bias", _A + "k_proj.bias"),
        Row("layers.{i}.attention.v.weight", _A + "v_proj.weight"),
        Row("layers.{i}.attention.v.bias", _A + "v_proj.bias"),
        Row("layers.{i}.attention.o.weight", _A + "o_proj.weight"),
        Row("layers.{i}.attention.o.bias", _A + "o_proj.bias"),
        Row("layers.{i}.mlp.norm.weight", _L + "post_attention_layernorm.weight"),
        Row("layers.{i}.mlp.gate.weight", _M + "gate_proj.weight"),
        Row("layers.{i}.mlp.gate.bias", _M + "gate_proj.bias"),
        Row("layers.{i}.mlp.up.weight", _M + "up_proj.weight"),
        Row("layers.{i}.mlp.up.bias", _M + "up_proj.bias"),
        Row("layers.{i}.mlp.down.weight", _M + "down_proj.weight"),
        Row("layers.{i}.mlp.down.bias", _M + "down_proj.bias"),
        Row("norm.weight", "model.norm.weight"),
        Row("head.weight", "lm_head.weight"),
    ),
    buffers=(_A + "rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
)
