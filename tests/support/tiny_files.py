"""Tiny models as files, written and read with torch and safetensors, and compared bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from support.tiny import Tensors, Tiny, as_bits, meta_rank


def hf_config(model: Tiny, *, version: int = 4) -> dict[str, Any]:
    """A config.json as transformers 4 or 5 writes it."""
    constants = model.constants
    scaling: dict[str, Any] | None = None
    if constants.factor:
        scaling = {
            "rope_type": "llama3",
            "factor": constants.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    dtype = str(model.dtype).split(".")[1]
    common = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": model.attention_bias,
        "hidden_act": "silu",
        "hidden_size": model.dim,
        "intermediate_size": model.ffn,
        "max_position_embeddings": 131072 if constants.factor else 8192,
        "mlp_bias": model.mlp_bias,
        "model_type": "llama",
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": constants.eps,
        "tie_word_embeddings": model.tied,
        "vocab_size": model.vocab,
    }
    if version == 4:
        rope = {"rope_theta": constants.theta, "rope_scaling": scaling, "torch_dtype": dtype}
        return common | rope
    rope = {"rope_theta": constants.theta, **(scaling or {"rope_type": "default"})}
    return common | {"rope_parameters": rope, "dtype": dtype, "head_dim": model.head_dim}


def meta_params(model: Tiny, stored_kv_heads: int) -> dict[str, Any]:
    """A params.json. `multiple_of` is the width itself, and the multiplier keeps below it."""
    constants = model.constants
    params = {
        "dim": model.dim,
        "n_layers": model.layers,
        "n_heads": model.heads,
        "n_kv_heads": stored_kv_heads,
        "vocab_size": -1 if constants.split == "columns" else model.vocab,
        "multiple_of": model.ffn,
        "ffn_dim_multiplier": model.ffn / (16 * model.dim / 3),
        "norm_eps": constants.eps,
        "rope_theta": constants.theta,
    }
    return params | ({"use_scaled_rope": True} if constants.factor else {})


def write_hf(model: Tiny, folder: Path, *, version: int = 4) -> Path:
    folder.mkdir(parents=True)
    save_file(model.truth, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model, version=version)))
    return folder


def write_meta(
    model: Tiny, folder: Path, files: int, *, stored_kv_heads: int | None = None
) -> Path:
    """One file for each rank; params.json counts every copy of a key-value head by default."""
    return write_ranks(
        folder,
        [meta_rank(model, rank, files) for rank in range(files)],
        meta_params(model, stored_kv_heads or max(model.kv_heads, files)),
    )


def write_ranks(folder: Path, ranks: Iterable[Tensors], params: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for rank, tensors in enumerate(ranks):
        torch.save(tensors, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def read_hf(folder: Path) -> Tensors:
    """Every tensor of a folder's safetensors files, or of its .bin files."""
    out: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        out |= load_file(path)
    for path in sorted(folder.glob("*.bin")):
        out |= torch.load(path, weights_only=True)
    return out


def read_meta(folder: Path) -> list[Tensors]:
    """Every file's tensors, by rank."""
    return [torch.load(p, weights_only=True) for p in sorted(folder.glob("consolidated.*.pth"))]


def unequal(found: Tensors, wanted: Tensors) -> list[str]:
    """Names of the tensors that are not the same in name, type, shape and every bit."""
    return sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found
        or name not in wanted
        or found[name].dtype != wanted[name].dtype
        or found[name].shape != wanted[name].shape
        or not torch.equal(as_bits(found[name]), as_bits(wanted[name]))
    )


def unequal_ranks(found: list[Tensors], wanted: list[Tensors]) -> list[str]:
    """`unequal` over the files of two Meta checkpoints, as "rank: name"."""
    assert len(found) == len(wanted), f"{len(found)} files, expected {len(wanted)}"
    pairs = enumerate(zip(found, wanted, strict=True))
    return [f"{rank}: {name}" for rank, (f, w) in pairs for name in unequal(f, w)]
