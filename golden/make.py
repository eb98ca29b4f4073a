"""Write the golden checkpoints: tiny models saved by Meta's reference code, and their logits.

    pip install -e '.[test,meta]'
    python golden/make.py --out golden

Formats written: ``OUT/<model>/mp{1,2,4}/consolidated.NN.pth`` and ``params.json`` (Meta layout),
``OUT/<model>/golden.safetensors`` (tokens, positions, logits) and ``OUT/provenance.json``. The
source of every file is Meta's published code, run as ``reference.py`` beside this script runs it;
README.md says what is checked on the way. Takes a few minutes. Same versions and machine: same
bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairscale.nn.model_parallel.layers import (
    ColumnParallelLinear,
    ParallelEmbedding,
    RowParallelLinear,
    VocabParallelEmbedding,
    _initialize_affine_weight,
)
from llama_models.llama3.args import ModelArgs
from llama_models.llama3.model import RMSNorm
from reference import LLAMA_1_2_THETA, MetaRun, build_model, meta_logits, run_ranks
from safetensors.torch import save

SEED = 20240718
PROCESSES = (1, 2, 4)
TOLERANCE = 2e-5  # rms(difference) / std(logits), float32 against float32
COMMAND = "python golden/make.py --out golden"
PACKAGES = ("torch", "numpy", "llama-models", "fairscale", "safetensors", "transformers")
NEAR = [*range(32)]
FAR = [*range(32), *range(4096, 4128)]  # scaled rope shows only at long range

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Golden:
    """One model: its params.json, and what releases of its kind have that it leaves out."""

    name: str
    params: dict[str, Any]
    vocab: int  # rows of the embedding; params.json may say -1
    dtype: torch.dtype
    norm_dtype: torch.dtype | None = None  # if not dtype
    embedding_axis: int = 0  # how tok_embeddings is split over files
    rope_buffers: str = ""  # "global": rope.freqs; "all": also one in each layer
    tied: bool = False
    positions: tuple[int, ...] = tuple(NEAR)
    factor: float | None = None  # rope factor of the golden logits where Meta's code has another

    @property
    def kv_heads(self) -> int:
        """Key and value heads of the model, which a file set may hold more than once."""
        return int(self.params.get("n_kv_heads", self.params["n_heads"]))

    @property
    def head_dim(self) -> int:
        """Rows of one head."""
        return int(self.params["dim"]) // int(self.params["n_heads"])

    def params_for(self, files: int) -> dict[str, Any]:
        """params.json of a set of ``files``: never fewer key-value heads than files."""
        if self.kv_heads >= files:
            return self.params
        return self.params | {"n_kv_heads": files}


LLAMA_3 = {"norm_eps": 1e-5, "rope_theta": 500000.0}
GOLDENS = (
    Golden(
        "llama1-mha",
        {
            "dim": 48,
            "multiple_of": 4,
            "n_heads": 4,
            "n_layers": 3,
            "norm_eps": 1e-6,
            "vocab_size": -1,
        },
        vocab=256,
        dtype=torch.float16,
        embedding_axis=1,
        rope_buffers="all",
    ),
    Golden(
        "llama2-gqa",
        {
            "dim": 48,
            "multiple_of": 8,
            "ffn_dim_multiplier": 1.3,
            "n_heads": 8,
            "n_kv_heads": 2,
            "n_layers": 2,
            "norm_eps": 1e-5,
            "vocab_size": -1,
        },
        vocab=256,
        dtype=torch.bfloat16,
        embedding_axis=1,
        rope_buffers="global",
    ),
    Golden(
        "codellama-mha",
        {
            "dim": 40,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 272,
            "multiple_of": 12,
            "norm_eps": 1e-5,
            "rope_theta": 1000000,
        },
        vocab=272,
        dtype=torch.float32,
        embedding_axis=1,
        rope_buffers="global",
    ),
    Golden(
        "llama3-gqa",
        {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 288}
        | {"multiple_of": 12}
        | LLAMA_3,
        vocab=288,
        dtype=torch.bfloat16,
    ),
    Golden(
        "llama3-mqa",
        {"dim": 48, "n_layers": 3, "n_heads": 8, "n_kv_heads": 1, "vocab_size": 160}
        | {"multiple_of": 20}
        | LLAMA_3,
        vocab=160,
        dtype=torch.bfloat16,
        norm_dtype=torch.float32,
    ),
    Golden(
        "llama31-scaled",
        {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 208}
        | {"multiple_of": 4, "ffn_dim_multiplier": 1.3, "use_scaled_rope": True}
        | LLAMA_3,
        vocab=208,
        dtype=torch.bfloat16,
        positions=tuple(FAR),
    ),
    Golden(
        "llama32-tied",
        {"dim": 96, "n_layers": 2, "n_heads": 12, "n_kv_heads": 4, "vocab_size": 160}
        | {"multiple_of": 16, "ffn_dim_multiplier": 0.5, "use_scaled_rope": True}
        | LLAMA_3,
        vocab=160,
        dtype=torch.bfloat16,
        tied=True,
        positions=tuple(FAR),
        factor=32.0,
    ),
)


def draw(golden: Golden, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The whole, unsplit tensor ``name``: float32, every value exact in bfloat16 and float16 too.

    Seeded by the names alone, so that it does not depend on the number of files. The spreads make
    attention, gates and norms bite: with the usual 0.02 and unit norms many defects do not show.
    """
    if golden.tied and name == "output.weight":
        name = "tok_embeddings.weight"
    digest = hashlib.sha256(f"{SEED}/{golden.name}/{name}".encode()).digest()
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big"))).standard_normal(
        shape
    )
    if name.endswith("norm.weight"):
        values = np.exp(0.3 * noise)
    elif name == "tok_embeddings.weight":
        values = 0.02 * noise
    else:
        gain = {"wq": 2.0, "wk": 2.0, "w1": 1.5, "output": 3.0}.get(name.split(".")[-2], 1.0)
        values = gain / math.sqrt(shape[1]) * noise
    return torch.from_numpy(values).float().bfloat16().half().float()


def prompt(golden: Golden) -> list[int]:
    """A token id for every position; every quarter of the vocabulary has its first and last id."""
    digest = hashlib.sha256(f"{SEED}/{golden.name}/prompt".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    tokens = generator.integers(0, golden.vocab, len(golden.positions))
    quarter = golden.vocab // 4
    edges = [edge for k in range(4) for edge in (k * quarter, (k + 1) * quarter - 1)]
    tokens[2:10] = generator.permutation(edges)
    return [int(token) for token in tokens]


# --- writing the files ----------------------------------------------------------------------------


def write_rank(rank: int, golden: Golden, files: int, folder: Path) -> None:
    """In process ``rank`` of ``files``: build Meta's modules, fill them, save their state dict."""
    args = ModelArgs(
        max_batch_size=1,
        max_seq_len=8,
        **(
            {"rope_theta": LLAMA_1_2_THETA}
            | golden.params_for(files)
            | {"vocab_size": golden.vocab}
        ),
    )
    model = build_model(args, golden.embedding_axis)
    repeats = args.n_kv_heads // golden.kv_heads
    with torch.no_grad():
        for name, module in model.named_modules():
            fill(module, partial(whole, golden, f"{name}.weight", repeats))
    for name, parameter in model.named_parameters():
        is_norm = name.endswith("norm.weight")
        parameter.data = parameter.data.to((is_norm and golden.norm_dtype) or golden.dtype)
    add_rope_buffers(model, golden)
    torch.save(model.state_dict(), folder / f"consolidated.{rank:02}.pth")


def whole(golden: Golden, name: str, repeats: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The unsplit tensor as this set of files holds it: key-value heads may be repeated."""
    if repeats == 1 or not name.endswith(("wk.weight", "wv.weight")):
        return draw(golden, name, shape)
    rows, columns = shape
    heads = draw(golden, name, (rows // repeats, columns)).view(-1, golden.head_dim, columns)
    # (K, D, in) -> (K·repeats, D, in): head j of the files is head j // repeats of the model.
    return heads.repeat_interleave(repeats, dim=0).reshape(shape)


def fill(module: torch.nn.Module, tensor: Callable[[tuple[int, ...]], torch.Tensor]) -> None:
    """Fill one of Meta's modules; fairscale's own code cuts this rank's part out of the whole."""
    if isinstance(module, RMSNorm):
        module.weight.copy_(tensor(tuple(module.weight.shape)))
        return
    if isinstance(module, ColumnParallelLinear):
        part, axis = module.output_size_per_partition, 0
        shape = (module.out_features, module.in_features)
    elif isinstance(module, RowParallelLinear):
        part, axis = module.input_size_per_partition, 1
        shape = (module.out_features, module.in_features)
    elif isinstance(module, VocabParallelEmbedding):
        part, axis = module.num_embeddings_per_partition, 0
        shape = (module.num_embeddings, module.embedding_dim)
    elif isinstance(module, ParallelEmbedding):
        part, axis = module.embedding_dim_per_partition, 1
        shape = (module.num_embeddings, module.embedding_dim)
    else:
        return
    _initialize_affine_weight(
        module.weight, *shape, part, axis, lambda whole: whole.copy_(tensor(shape))
    )


def add_rope_buffers(model: Any, golden: Golden) -> None:
    """The rotary frequencies that files of Llama 1 and 2 hold as buffers, in the files' dtype."""
    exponents = torch.arange(0, golden.head_dim, 2).float() / golden.head_dim
    freqs = 1.0 / (golden.params.get("rope_theta", LLAMA_1_2_THETA) ** exponents)  # (D/2,)

    def rope() -> torch.nn.Module:
        holder = torch.nn.Module()
        holder.register_buffer("freqs", freqs.to(golden.dtype))
        return holder

    if golden.rope_buffers:
        model.rope = rope()
    if golden.rope_buffers == "all":
        for layer in model.layers:
            layer.attention.inner_attention = torch.nn.Module()
            layer.attention.inner_attention.rope = rope()


# --- logits from outside Meta's code --------------------------------------------------------------


def transformers_logits(golden: Golden, tokens: list[int], factor: float | None) -> torch.Tensor:
    """float32 logits (n, vocab) from transformers' LlamaForCausalLM with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    params, scaling = golden.params, None
    if factor is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    weights = hf_weights(golden)
    settings: dict[str, Any] = {
        "hidden_size": params["dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": golden.kv_heads,
        "intermediate_size": weights["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "vocab_size": golden.vocab,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params.get("rope_theta", LLAMA_1_2_THETA),
        "rope_scaling": scaling,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model.eval().float()
    model.load_state_dict(weights, strict=True)
    n = len(tokens)
    # Without a mask, transformers takes a gap in the positions for the start of another sequence.
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.tensor([golden.positions]),
            attention_mask=mask,
            use_cache=False,
        )
    logits: torch.Tensor = output.logits[0].clone()
    return logits


def hf_weights(golden: Golden) -> Weights:
    """The same weights under transformers' names, with q and k rows in halves instead of pairs."""
    dim, heads = golden.params["dim"], golden.params["n_heads"]
    kv_rows, ffn = golden.kv_heads * golden.head_dim, ffn_width(golden.params)
    rows = [
        ("attention.wq", "self_attn.q_proj", (dim, dim), heads),
        ("attention.wk", "self_attn.k_proj", (kv_rows, dim), golden.kv_heads),
        ("attention.wv", "self_attn.v_proj", (kv_rows, dim), 0),
        ("attention.wo", "self_attn.o_proj", (dim, dim), 0),
        ("feed_forward.w1", "mlp.gate_proj", (ffn, dim), 0),
        ("feed_forward.w2", "mlp.down_proj", (dim, ffn), 0),
        ("feed_forward.w3", "mlp.up_proj", (ffn, dim), 0),
        ("attention_norm", "input_layernorm", (dim,), 0),
        ("ffn_norm", "post_attention_layernorm", (dim,), 0),
    ]
    weights = {
        "model.embed_tokens.weight": draw(golden, "tok_embeddings.weight", (golden.vocab, dim)),
        "model.norm.weight": draw(golden, "norm.weight", (dim,)),
        "lm_head.weight": draw(golden, "output.weight", (golden.vocab, dim)),
    }
    for layer in range(golden.params["n_layers"]):
        for theirs, ours, shape, rotated in rows:
            tensor = draw(golden, f"layers.{layer}.{theirs}.weight", shape)
            if rotated:  # (H·D, in) -> (H, D/2, 2, in) -> (H, 2, D/2, in) -> (H·D, in)
                pairs = tensor.view(rotated, golden.head_dim // 2, 2, dim)
                tensor = pairs.transpose(1, 2).reshape(shape)
            weights[f"model.layers.{layer}.{ours}.weight"] = tensor
    return weights


def ffn_width(params: dict[str, Any]) -> int:
    """Rows of w1, as ``FeedForward`` of the reference computes them."""
    width = int(8 * params["dim"] / 3)
    width = int(params.get("ffn_dim_multiplier", 1) * width)
    multiple = int(params["multiple_of"])
    return multiple * math.ceil(width / multiple)


# --- one model from start to end ------------------------------------------------------------------


def make(golden: Golden, out: Path) -> dict[str, Any]:
    """Write one model's folders and golden logits; return its entry in the provenance."""
    folder = out / golden.name
    tokens, positions = prompt(golden), list(golden.positions)
    runs: dict[int, MetaRun] = {}
    for files in PROCESSES:
        target = folder / f"mp{files}"
        target.mkdir(parents=True, exist_ok=True)
        (target / "params.json").write_text(json.dumps(golden.params_for(files)) + "\n")
        run_ranks(files, write_rank, golden, files, target)
        runs[files] = meta_logits(target, tokens, positions, allow_rope_freqs=True)
    published = 8.0 if golden.params.get("use_scaled_rope") else None
    measured = {
        f"{files} processes against 1": distance(runs[files].logits, runs[1].logits)
        for files in PROCESSES[1:]
    }
    theirs = transformers_logits(golden, tokens, published)
    measured["transformers against 1 process"] = distance(theirs, runs[1].logits)
    logits, source = runs[1].logits, "Meta's reference code, 1 process, float32"
    if golden.factor is not None:
        logits = transformers_logits(golden, tokens, golden.factor)
        source = f"transformers, float32, rope factor {golden.factor:g}"
        changed = meta_logits(folder / "mp1", tokens, positions, rope_factor=golden.factor)
        key = f"Meta's code with the factor changed to {golden.factor:g} against golden"
        measured[key] = distance(changed.logits, logits)
    if (worst := max(measured.values())) > TOLERANCE:
        raise SystemExit(f"{golden.name}: {worst:.2e} exceeds {TOLERANCE:.0e}: {measured}")
    if any(run.rank_spread > 0 for run in runs.values()):
        raise SystemExit(f"{golden.name}: ranks of one run give different logits")
    save_golden(folder / "golden.safetensors", golden, tokens, logits, source)
    return entry(golden, folder, source, measured)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """rms(found - expected) / std(expected), over all positions and the vocabulary."""
    difference = (found.double() - expected.double()).square().mean().sqrt()
    return float(difference / expected.double().std())


def save_golden(
    path: Path, golden: Golden, tokens: list[int], logits: torch.Tensor, source: str
) -> None:
    """Write golden.safetensors. One metadata key: safetensors writes several in no fixed order."""
    provenance = {"model": golden.name, "logits": source, "command": COMMAND, "seed": SEED}
    tensors = {
        "tokens": torch.tensor(tokens),
        "positions": torch.tensor(golden.positions),
        "logits": logits.contiguous(),
    }
    metadata = {"provenance": json.dumps(provenance | versions())}
    path.write_bytes(save(tensors, metadata))


def entry(golden: Golden, folder: Path, source: str, measured: dict[str, float]) -> dict[str, Any]:
    """One model's provenance."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "params": golden.params,
        "n_kv_heads": golden.kv_heads,
        "vocab_size": golden.vocab,
        "intermediate_size": ffn_width(golden.params),
        "dtype": str(golden.dtype).removeprefix("torch."),
        "norm_dtype": str(golden.norm_dtype or golden.dtype).removeprefix("torch."),
        "tied": golden.tied,
        "processes": list(PROCESSES),
        "tok_embeddings_axis": golden.embedding_axis,
        "rope_factor": golden.factor or (8.0 if golden.params.get("use_scaled_rope") else None),
        "logits_from": source,
        "rms_over_std": {key: float(f"{value:.2e}") for key, value in measured.items()},
        "deviations": deviations(golden),
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
    }


def deviations(golden: Golden) -> list[str]:
    """Where this model's files or logits are not what the published code gives as it is."""
    notes = []
    if golden.embedding_axis == 1:
        notes.append(
            "tok_embeddings is split by column, as in files of Llama 1 and 2: fairscale's "
            "ParallelEmbedding stands in for VocabParallelEmbedding."
        )
    if golden.rope_buffers:
        also = " and one in each layer" if golden.rope_buffers == "all" else ""
        notes.append(
            f"A rope.freqs buffer{also} was added to Meta's modules before saving, as files of "
            "that age hold it, and left out again to run the published code, which has none."
        )
    if "rope_theta" not in golden.params:
        notes.append(
            "rope_theta is 10000, as in the code of that age; the published class says 500000."
        )
    notes.extend(
        f"mp{files}: the published code cannot split {golden.kv_heads} key-value head(s) over "
        f"{files} processes, so it was built with n_kv_heads {files}, as its params.json says; "
        f"head j of the files is head j // {files // golden.kv_heads} of the model."
        for files in PROCESSES
        if files > golden.kv_heads
    )
    if golden.norm_dtype is not None:
        notes.append("The norms were left in float32 when the other parameters were cast.")
    if golden.positions != tuple(NEAR):
        notes.append(
            "Positions have a gap: rows of the model's own rotary table were selected, and the "
            "unchanged forward was run from position 0."
        )
    if golden.factor is not None:
        notes.append(
            "The published code has rope factor 8 written into it, and this kind of model has "
            f"{golden.factor:g}: the golden logits are those of transformers. Meta's code agrees "
            "with transformers at factor 8, and with the golden logits once its factor is changed."
        )
    return notes


def versions() -> dict[str, str]:
    """What the files were made with."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages | {"machine": platform.machine()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    provenance: dict[str, Any] = {
        "command": COMMAND,
        "seed": SEED,
        "tolerance": TOLERANCE,
        "versions": versions(),
        "models": {},
    }
    for golden in GOLDENS:
        provenance["models"][golden.name] = made = make(golden, out)
        print(golden.name, made["rms_over_std"], file=sys.stderr)
    text = json.dumps(provenance, indent=1) + "\n"
    (out / "provenance.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
