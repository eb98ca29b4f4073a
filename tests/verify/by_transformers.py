"""transformers' forward pass, shown to an observer point by point.

What golden files of the tests are made with: nothing of it is ours but the names of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.golden.create import source_of
from llamatools.golden.model import Generator, Golden
from llamatools.golden.prompts import Prompts, default_prompts
from llamatools.golden.record import Recorder
from llamatools.reference.observe import Observer, Point, Prompt


def forward(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    observer: Observer,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """As llamatools.reference.run.run, for folders in HF layout."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.path, local_files_only=True, dtype=dtype
    ).eval()
    seen: dict[Point, list[torch.Tensor]] = {}

    def keep(point: Point, x: Any) -> None:
        seen.setdefault(point, []).append((x[0] if isinstance(x, tuple) else x)[0])

    inner = model.model
    inner.embed_tokens.register_forward_hook(lambda m, a, out: keep(Point("embedding"), out))
    for i, layer in enumerate(inner.layers):
        after = Point("attention", i)
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda m, a, after=after: keep(after, a[0])
        )
        layer.register_forward_hook(lambda m, a, out, i=i: keep(Point("mlp", i), out))
    inner.norm.register_forward_hook(lambda m, a, out: keep(Point("norm"), out))
    logits = [_logits(model, p) for p in prompts]
    for point, states in seen.items():
        for i, x in enumerate(states):
            observer.hidden(i, point, x)
    for i, x in enumerate(logits):
        observer.logits(i, range(len(x)), x)
    return {}


def _logits(model: Any, prompt: Prompt) -> torch.Tensor:
    n = len(prompt.tokens)
    # Without a mask, transformers takes a gap in positions for the start of another sequence.
    least = torch.finfo(model.dtype).min
    mask = torch.full((n, n), least, dtype=model.dtype).triu(1)[None, None]
    with torch.no_grad():
        out: torch.Tensor = model(
            input_ids=torch.tensor([prompt.tokens]),
            position_ids=torch.tensor([prompt.positions]),
            attention_mask=mask,
            use_cache=False,
        ).logits[0]
    return out


def make_golden(
    folder: Path, prompts: Prompts | None = None, dtype: torch.dtype = torch.float32
) -> Golden:
    """The default golden of a folder."""
    with open_checkpoint(folder) as checkpoint:
        asked = prompts or default_prompts(checkpoint)
        recorder = Recorder(asked.prompts)
        forward(checkpoint, asked.prompts, recorder, dtype)
        return Golden(
            vocab_size=recorder.vocab_size,
            dim=recorder.dim,
            dtype=recorder.dtype,
            source=source_of(checkpoint),
            generator=Generator("transformers", {"transformers": version("transformers")}),
            noise=None,
            points=recorder.points,
            prompts=recorder.finish(),
            notes=asked.notes,
        )
