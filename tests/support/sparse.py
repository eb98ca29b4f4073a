"""Checkpoints of real size that take no space: true headers, and data that are holes.

Unlike the other helpers, this one plans its files with llamatools.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatools.containers.base import FileLayout
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.containers.torchzip_write import torch_layout
from llamatools.dtypes import BF16, DType

Entry = tuple[str, DType, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """A released model."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def write_sparse(path: Path, layout: FileLayout, crc: Callable[[str], int] = lambda n: 1) -> None:
    """The literals of a planned file; `crc` is what it claims of each tensor's bytes."""
    crcs = [crc(s.name) for s in layout.slots]
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
    try:
        os.ftruncate(fd, layout.size)
        for i in range(len(layout.slots) + 1):
            at = layout.slots[i - 1].stop if i else 0
            os.pwrite(fd, layout.literal(i, crcs[:i]), at)
    finally:
        os.close(fd)


def hf_entries(m: Sizes, *, tied: bool) -> Iterator[Entry]:
    kv = m.kv_heads * m.head_dim
    yield "model.embed_tokens.weight", BF16, (m.vocab, m.dim)
    for i in range(m.layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", BF16, (m.dim,)
        yield at + "self_attn.q_proj.weight", BF16, (m.dim, m.dim)
        yield at + "self_attn.k_proj.weight", BF16, (kv, m.dim)
        yield at + "self_attn.v_proj.weight", BF16, (kv, m.dim)
        yield at + "self_attn.o_proj.weight", BF16, (m.dim, m.dim)
        yield at + "post_attention_layernorm.weight", BF16, (m.dim,)
        yield at + "mlp.gate_proj.weight", BF16, (m.ffn, m.dim)
        yield at + "mlp.up_proj.weight", BF16, (m.ffn, m.dim)
        yield at + "mlp.down_proj.weight", BF16, (m.dim, m.ffn)
    yield "model.norm.weight", BF16, (m.dim,)
    if not tied:
        yield "lm_head.weight", BF16, (m.vocab, m.dim)


def meta_entries(m: Sizes, files: int, *, columns: bool) -> Iterator[Entry]:
    """One rank's tensors. `columns`: the embedding is split so, as before Llama 3."""
    n, kv = files, max(1, m.kv_heads // files) * m.head_dim
    embedding = (m.vocab, m.dim // n) if columns else (m.vocab // n, m.dim)
    yield "tok_embeddings.weight", BF16, embedding
    for i in range(m.layers):
        at = f"layers.{i}."
        yield at + "attention.wq.weight", BF16, (m.dim // n, m.dim)
        yield at + "attention.wk.weight", BF16, (kv, m.dim)
        yield at + "attention.wv.weight", BF16, (kv, m.dim)
        yield at + "attention.wo.weight", BF16, (m.dim, m.dim // n)
        yield at + "feed_forward.w1.weight", BF16, (m.ffn // n, m.dim)
        yield at + "feed_forward.w2.weight", BF16, (m.dim, m.ffn // n)
        yield at + "feed_forward.w3.weight", BF16, (m.ffn // n, m.dim)
        yield at + "attention_norm.weight", BF16, (m.dim,)
        yield at + "ffn_norm.weight", BF16, (m.dim,)
    yield "norm.weight", BF16, (m.dim,)
    yield "output.weight", BF16, (m.vocab // n, m.dim)


def write_sparse_hf(folder: Path, m: Sizes, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    entries = list(hf_entries(m, tied=bool(config.get("tie_word_embeddings"))))
    write_sparse(folder / "model.safetensors", safetensors_layout(entries, {"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_sparse_meta(
    folder: Path, m: Sizes, files: int, params: Mapping[str, Any], *, columns: bool, tied: bool
) -> Path:
    """Checksums tell equal tensors (repeated key-value heads, a tied head) from others.

    The first bytes of layer 0's keys and values, and of a tied head, are written too, for those
    who look.
    """
    folder.mkdir()
    entries = list(meta_entries(m, files, columns=columns))
    filled = ["layers.0.attention.wk.weight", "layers.0.attention.wv.weight"]
    filled += ["tok_embeddings.weight", "output.weight"] if tied else []
    for rank in range(files):

        def owner(name: str, rank: int = rank) -> bytes:
            if ".wk." in name or ".wv." in name:
                return f"{name} {rank * min(files, m.kv_heads) // files}".encode()
            if tied and name == "output.weight":
                name = "tok_embeddings.weight"
            return (name if "norm" in name else f"{name} {rank}").encode()

        path = folder / f"consolidated.{rank:02d}.pth"
        layout = torch_layout(entries, path.stem)
        write_sparse(path, layout, lambda name: zlib.crc32(owner(name)))
        with path.open("r+b") as f:
            for slot in layout.slots:
                if slot.name in filled:
                    f.seek(slot.start)
                    f.write(owner(slot.name).ljust(64) * 2048)
    (folder / "params.json").write_text(json.dumps(params))
    return folder
