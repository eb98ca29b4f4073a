"""Run Meta's reference Llama code on a checkpoint folder in Meta layout.

Source: ``llama_models.llama3.model.Transformer`` (PyPI ``llama-models``) on fairscale's
model-parallel layers, one process for each ``consolidated.NN.pth``, over gloo, on CPU, in float32.
Each process loads its own file with ``strict=True``: a missing, unexpected or misshapen tensor is
an error.

    python golden/reference.py FOLDER --tokens tokens.safetensors --out logits.safetensors

``tokens.safetensors`` holds ``tokens`` (n,) int64 and, if they are not 0..n-1, ``positions`` (n,)
int64; a ``golden.safetensors`` is such a file. ``logits.safetensors`` gets ``tokens``,
``positions`` and ``logits`` (n, vocab) float32. One line of JSON on stdout says what was run. Exit
code 1: the input cannot be run, or Meta's code refused it.

Where this departs from calling the published code as it is, and why:

- Positions with gaps. ``Transformer.forward`` takes a start position, and learns about positions
  only through rows of ``freqs_cis``. So row ``positions[i]`` of the model's own table is put at row
  i, and the unchanged forward runs from position 0: same rotation, same causal mask, no padding
  between. For positions 0..n-1 this changes nothing.
- Embedding axis. The published code splits ``tok_embeddings`` by vocabulary row (Llama 3 and
  later). Files split by column (Llama 1, 2, Code) are told by their shape and get fairscale's
  ``ParallelEmbedding``, as Meta's code for those models used.
- ``rope_theta`` absent means 10000, as in the code of Llama 1 and 2; the published class says
  500000.
- ``vocab_size`` absent or -1 comes from ``output.weight``; Meta's loaders asked the tokenizer.
- ``--rope-factor F`` puts F in place of the literal ``scale_factor = 8`` of ``apply_scaling``
  (Llama 3.2 1B and 3B: 32).
- ``--allow-rope-freqs`` drops the rotary buffers of Llama 1 and 2 files, which the published class
  lacks.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fairscale.nn.model_parallel.initialize as fairscale_init
import llama_models.llama3.model as meta
import numpy as np
import torch
import torch.distributed as dist
from fairscale.nn.model_parallel.layers import ParallelEmbedding
from llama_models.llama3.args import ModelArgs
from safetensors.torch import load_file, save
from torch.multiprocessing.spawn import ProcessException, spawn

ROPE_BUFFER = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs")
LLAMA_1_2_THETA = 10000.0


class RankError(RuntimeError):
    """A process of the group failed."""


@dataclass(frozen=True)
class MetaRun:
    """What Meta's code gave: ``logits`` (n, vocab) float32 of rank 0, and how it was run."""

    logits: torch.Tensor
    n_processes: int
    embedding_axis: int  # a single file tells nothing: 0
    rank_spread: float  # largest |difference| of any rank's gathered logits from rank 0's
    dropped: list[str]  # rotary buffers left out


@dataclass(frozen=True)
class _Job:
    files: list[Path]
    params: dict[str, Any]
    tokens: list[int]
    positions: list[int]
    rope_factor: float | None
    allow_rope_freqs: bool


def meta_logits(
    folder: Path,
    tokens: list[int],
    positions: list[int] | None = None,
    *,
    rope_factor: float | None = None,
    allow_rope_freqs: bool = False,
) -> MetaRun:
    """Logits that Meta's code gives for one prompt on a Meta folder, one process per file.

    ``positions`` are strictly increasing, 0..n-1 if not given. Raises ``ValueError`` for input that
    cannot be run and ``RankError`` when Meta's code refuses it.
    """
    positions = list(range(len(tokens))) if positions is None else positions
    if not tokens or len(tokens) != len(positions):
        raise ValueError(f"{len(tokens)} tokens and {len(positions)} positions")
    if positions[0] < 0 or any(b <= a for a, b in itertools.pairwise(positions)):
        raise ValueError("positions must be at least 0 and strictly increasing")
    files = sorted(folder.glob("consolidated*.pth"))
    if not files:
        raise ValueError(f"no consolidated.NN.pth in {folder}")
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    if "dim" not in params:  # ModelArgs would silently build a model with dim 4096
        raise ValueError("params.json states no dim at its top level")
    if rope_factor is not None and not params.get("use_scaled_rope"):
        raise ValueError("a rope factor is given, but params.json does not say use_scaled_rope")
    job = _Job(files, params, tokens, positions, rope_factor, allow_rope_freqs)
    with tempfile.TemporaryDirectory(prefix="meta-logits-") as scratch:
        run_ranks(len(files), _logits_of_rank, job, Path(scratch))
        ranks = [np.load(Path(scratch) / f"logits.{rank}.npy") for rank in range(len(files))]
        notes = json.loads((Path(scratch) / "notes.json").read_text(encoding="utf-8"))
    return MetaRun(
        logits=torch.from_numpy(ranks[0]),
        n_processes=len(files),
        embedding_axis=notes["embedding_axis"],
        rank_spread=max(float(np.abs(other - ranks[0]).max()) for other in ranks),
        dropped=notes["dropped"],
    )


def run_ranks(size: int, work: Callable[..., None], *args: Any) -> None:
    """Call ``work(rank, *args)`` in ``size`` processes that form one model-parallel group.

    Raises ``RankError`` with the traceback of the rank that failed first; those of the others,
    which only lost a peer, would hide it.
    """
    with tempfile.TemporaryDirectory(prefix="meta-ranks-") as name:
        scratch = Path(name)
        try:
            spawn(_rank, args=(size, scratch, work, args), nprocs=size)
        except ProcessException as error:
            failures = [json.loads(path.read_text()) for path in scratch.glob("failure.*")]
            if not failures:
                raise RankError(str(error)) from error
            raise RankError(min(failures, key=lambda failure: failure["at"])["text"]) from None


def _rank(
    rank: int, size: int, scratch: Path, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    os.dup2(2, 1)  # fairscale prints; stdout belongs to the caller's data
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    rendezvous = f"file://{scratch}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
    try:
        fairscale_init.initialize_model_parallel(size)
        work(rank, *args)
        dist.barrier()
    except Exception:  # written down before leaving the group, which makes the other ranks fail
        text = f"rank {rank} of {size}: {traceback.format_exc()}"
        failure = {"at": time.monotonic_ns(), "text": text}
        (scratch / f"failure.{rank}").write_text(json.dumps(failure))
        raise
    finally:
        fairscale_init.destroy_model_parallel()
        dist.destroy_process_group()


def build_model(args: ModelArgs, embedding_axis: int) -> meta.Transformer:
    """Meta's ``Transformer`` for this rank, with ``tok_embeddings`` split on axis 0 or 1."""
    published = meta.VocabParallelEmbedding
    if embedding_axis == 1:
        meta.VocabParallelEmbedding = ParallelEmbedding
    try:
        return meta.Transformer(args)
    finally:
        meta.VocabParallelEmbedding = published


def _logits_of_rank(rank: int, job: _Job, scratch: Path) -> None:
    state = torch.load(job.files[rank], map_location="cpu", weights_only=True)
    dropped = [name for name in state if ROPE_BUFFER.fullmatch(name)]
    if job.allow_rope_freqs:
        state = {name: tensor for name, tensor in state.items() if name not in dropped}
    args = _model_args(job, state)
    # (vocab, dim / files) is split by column; (vocab / files, dim) by row.
    embedding_axis = int(state["tok_embeddings.weight"].shape[1] != args.dim)
    if job.rope_factor is not None:
        meta.apply_scaling = scaling_with_factor(job.rope_factor)
    model = build_model(args, embedding_axis)
    model.load_state_dict(state, strict=True)
    model.freqs_cis = model.freqs_cis[job.positions]  # row i: the rotation at positions[i]
    logits = model(torch.tensor([job.tokens]), 0)[0]
    np.save(scratch / f"logits.{rank}.npy", logits.numpy())
    if rank == 0:
        notes = {"embedding_axis": embedding_axis, "dropped": dropped}
        (scratch / "notes.json").write_text(json.dumps(notes), encoding="utf-8")


def _model_args(job: _Job, state: dict[str, torch.Tensor]) -> ModelArgs:
    params = {"rope_theta": LLAMA_1_2_THETA} | job.params
    if params.get("vocab_size", -1) < 1:
        params["vocab_size"] = state["output.weight"].shape[0] * len(job.files)
    # The rotary table has 2 * max_seq_len rows, the cache max_seq_len.
    max_seq_len = max(len(job.tokens), job.positions[-1] // 2 + 1)
    return ModelArgs(max_batch_size=1, max_seq_len=max_seq_len, **params)


def scaling_with_factor(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Meta's ``apply_scaling`` with its hard-coded ``scale_factor = 8`` replaced by ``factor``."""
    source = inspect.getsource(meta.apply_scaling)
    changed, count = re.subn(r"scale_factor = 8\b", f"scale_factor = {factor!r}", source)
    if count != 1:
        raise ValueError("apply_scaling no longer says 'scale_factor = 8'")
    namespace: dict[str, Any] = {"torch": torch}
    exec(changed, namespace)
    function: Callable[[torch.Tensor], torch.Tensor] = namespace["apply_scaling"]
    return function


def main() -> int:
    """The command line."""
    summary = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rope-factor", type=float)
    parser.add_argument("--allow-rope-freqs", action="store_true")
    options = parser.parse_args()
    try:
        prompt = load_file(options.tokens)
        tokens: list[int] = prompt["tokens"].tolist()
        given = prompt.get("positions")
        positions: list[int] = [*range(len(tokens))] if given is None else given.tolist()
        run = meta_logits(
            options.folder,
            tokens,
            positions,
            rope_factor=options.rope_factor,
            allow_rope_freqs=options.allow_rope_freqs,
        )
    except (RankError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    saved = {
        "tokens": torch.tensor(tokens),
        "positions": torch.tensor(positions),
        "logits": run.logits,
    }
    options.out.write_bytes(save(saved))
    report = asdict(run) | {"logits": list(run.logits.shape)}
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
