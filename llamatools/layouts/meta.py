"""Meta's layout: `consolidated.NN.pth`, one file a model-parallel rank, as the reference code
(github.com/meta-llama/llama-models) saves its modules.

Rotary rows come in neighbouring pairs. Llama 1, 2 and Code Llama split the embedding by
columns, Llama 3 and later by rows of the vocabulary: the tables differ in that one axis.
The reference code has no biases; descendants that do follow its names.
"""

from __future__ import annotations

from llamatools.layouts.table import PAIRS_KV, PAIRS_Q, SAME, Axis, Layout, Row

_A = "layers.{i}.attention."
_F = "layers.{i}.feed_forward."


def _rows(embedding_axis: Axis) -> tuple[Row, ...]:
    return (
        Row("embedding.weight", "tok_embeddings.weight", SAME, embedding_axis),
        Row("layers.{i}.attention.norm.weight", "layers.{i}.attention_norm.weight"),
        Row("layers.{i}.attention.q.weight", _A + "wq.weight", PAIRS_Q, "rows"),
        Row("layers.{i}.attention.q.bias", _A + "wq.bias", PAIRS_Q, "rows"),
        Row("layers.{i}.attention.k.weight", _A + "wk.weight", PAIRS_KV, "kv"),
        Row("layers.{i}.attention.k.bias", _A + "wk.bias", PAIRS_KV, "kv"),
        Row("layers.{i}.attention.v.weight", _A + "wv.weight", SAME, "kv"),
        Row("layers.{i}.attention.v.bias", _A + "wv.bias", SAME, "kv"),
        Row("layers.{i}.attention.o.weight", _A + "wo.weight", SAME, "columns"),
        Row("layers.{i}.attention.o.bias", _A + "wo.bias"),
        Row("layers.{i}.mlp.norm.weight", "layers.{i}.ffn_norm.weight"),
        Row("layers.{i}.mlp.gate.weight", _F + "w1.weight", SAME, "rows"),
        Row("layers.{i}.mlp.gate.bias", _F + "w1.bias", SAME, "rows"),
        Row("layers.{i}.mlp.up.weight", _F + "w3.weight", SAME, "rows"),
        Row("layers.{i}.mlp.up.bias", _F + "w3.bias", SAME, "rows"),
        Row("layers.{i}.mlp.down.weight", _F + "w2.weight", SAME, "columns"),
        Row("layers.{i}.mlp.down.bias", _F + "w2.bias"),
        Row("norm.weight", "norm.weight"),
        Row("head.weight", "output.weight", SAME, "rows"),
    )


_BUFFERS = ("rope.freqs", _A + "inner_attention.rope.freqs")

META_2 = Layout("meta", _rows("columns"), _BUFFERS)
META_3 = Layout("meta", _rows("rows"), _BUFFERS)
