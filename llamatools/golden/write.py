"""Writes a golden file: safetensors, with JSON in its metadata.

    metadata          {"golden": JSON}, see schemas/golden.json
    N.tokens          (n,) I64, of prompt N of the JSON; N counts from 0
    N.positions       (n,) I64
    N.top.ids         (n, k) I32     the k largest logits, the largest first
    N.top.values      (n, k)
    N.lse             (n,) F64       log of the sum of exp of all logits
    N.mean, N.square  (n,) F64       mean of the logits, and of their squares
    N.sketch          (n, 32)        of the logits, see sketch.py
    N.targets         (n - 1,) F64   log-probability of the token that follows
    N.logits          (m, V)         of the last m positions: 1, or all where V is at most 4096
    N.hidden          (points, n, 32)  sketches of hidden states, where the JSON names points
    N.hidden.rms      (points, n) F64

Numbers without a type here are F64 if the logits were computed in float64, else F32. N.top to
N.targets may be absent where N.logits has all positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.dtypes import BY_NAME
from llamatools.engine.newfile import NewFile
from llamatools.engine.place import staging
from llamatools.engine.publish import publish_file
from llamatools.engine.targets import check_apart, check_file
from llamatools.golden.document import to_json
from llamatools.golden.model import Golden, GoldenPrompt

Array = NDArray[np.generic]
METADATA_KEY = "golden"
_CODES = {"<f8": "F64", "<f4": "F32", "<i8": "I64", "<i4": "I32"}


def write_golden(golden: Golden, out: Path, *, force: bool = False) -> None:
    """Write and publish a golden file in one step."""
    wide = np.dtype("<f8") if golden.dtype == "float64" else np.dtype("<f4")
    arrays: dict[str, Array] = {}
    for i, p in enumerate(golden.prompts):
        arrays |= {f"{i}.{name}": a for name, a in _arrays(p, wide).items()}
    shapes = [(n, BY_NAME[_CODES[a.dtype.str]], a.shape) for n, a in arrays.items()]
    text = json.dumps(to_json(golden), ensure_ascii=False, allow_nan=False)
    layout = safetensors_layout(shapes, {METADATA_KEY: text})
    with staging(out, force=force) as folder:
        file = NewFile(folder / out.name)
        try:
            file.append(layout.header)
            for a in arrays.values():
                file.append(np.ascontiguousarray(a).reshape(-1).view("u1").data)
            file.finish()
        finally:
            file.drop()
        publish_file(file.path, out, force=force)


def _arrays(p: GoldenPrompt, wide: np.dtype[np.floating]) -> dict[str, Array]:
    out: dict[str, Array] = {
        "tokens": np.array(p.prompt.tokens, "<i8"),
        "positions": np.array(p.prompt.positions, "<i8"),
    }
    if p.digest is not None:
        out |= {
            "top.ids": p.digest.top_ids.astype("<i4"),
            "top.values": p.digest.top_values.astype(wide),
            "lse": p.digest.lse.astype("<f8"),
            "mean": p.digest.mean.astype("<f8"),
            "square": p.digest.square.astype("<f8"),
            "sketch": p.digest.sketch.astype(wide),
        }
    if p.targets is not None:
        out["targets"] = p.targets.astype("<f8")
    if p.full is not None:
        out["logits"] = p.full.read(0, p.full.shape[0]).astype(wide)
    if p.hidden is not None:
        out |= {"hidden": p.hidden.sketch.astype(wide), "hidden.rms": p.hidden.rms.astype("<f8")}
    return out


def check_target(
    out: Path, *, force: bool, models: Iterable[Path] = (), files: Iterable[Path] = ()
) -> None:
    """Refuse, before a long run, an output that would cost an input (`engine.publish.check_apart`),
    is taken or has no place to be."""
    check_apart([out], models=models, files=files)
    check_file(out, force=force)
