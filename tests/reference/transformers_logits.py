"""float32 logits from transformers' AutoModelForCausalLM, loaded from a folder as users load it.

    python tests/reference/transformers_logits.py JOBS.json

JOBS.json is a list of {"folder", "prompt", "out"}: a checkpoint, a safetensors file with `tokens`
and `positions` (n,) int64, and the safetensors file that gets `logits` (n, vocab) float32. Imports
nothing of llamatools, so that any python with transformers can run it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers import __version__ as version


def load(folder: Path) -> Any:
    """The model in float32, from local files alone, with every weight found in them."""
    # transformers 4 up to 4.55 knows only the name torch_dtype.
    dtype = "torch_dtype" if tuple(map(int, version.split(".")[:2])) < (4, 56) else "dtype"
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **{dtype: torch.float32}
    )
    model, info = loaded
    # Whatever does not fit, transformers only warns of, and fills with noise.
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(key):
            raise ValueError(f"{folder}: {key}: {info[key]}")
    return model.eval()


def logits(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(n, vocab) float32 for n tokens at `positions`, each attending to itself and those before."""
    n = len(tokens)
    arguments: dict[str, Any] = {"input_ids": tokens[None]}
    if positions.tolist() != list(range(n)):
        # Without a mask, transformers takes a gap in positions for the start of another sequence.
        mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
        arguments |= {"position_ids": positions[None], "attention_mask": mask, "use_cache": False}
    with torch.inference_mode():
        out: torch.Tensor = model(**arguments).logits[0].float().clone()
    return out


def folder_logits(folder: Path, prompt: Path) -> torch.Tensor:
    saved = load_file(prompt)
    return logits(load(folder), saved["tokens"], saved["positions"])


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        save_file({"logits": folder_logits(Path(job["folder"]), Path(job["prompt"]))}, job["out"])
    print(version)


if __name__ == "__main__":
    main()
