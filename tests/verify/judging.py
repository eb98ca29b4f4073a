"""Models held against goldens by our own forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharp import Sharp

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.golden.model import Golden
from llamatools.reference.observe import Observer, Prompt
from llamatools.reference.run import run
from llamatools.reference.settings import Settings
from llamatools.verifying.report import build_report
from llamatools.verifying.verdict import Wishes
from llamatools.verifying.verify import verify


@dataclass(frozen=True)
class Made:
    """A model's folder, and what transformers says of it."""

    folder: Path
    golden: Golden


Make = Callable[[Sharp], Made]


def ours(dtype: str = "fp32") -> Callable[[Checkpoint, Sequence[Prompt], Observer], Any]:
    def forward(checkpoint: Checkpoint, prompts: Sequence[Prompt], observer: Observer) -> Any:
        settings = Settings(dtype=dtype, device="cpu", threads=1)
        return run(checkpoint, prompts, observer, settings).to_json()

    return forward


def judged(
    folder: Path, golden: Golden, dtype: str = "fp32", wishes: Wishes | None = None
) -> dict[str, Any]:
    """The report on a folder, by our forward pass."""
    with open_checkpoint(folder) as checkpoint:
        outcome = verify(checkpoint, golden, None, ours(dtype), wishes or Wishes())
        return build_report(checkpoint, outcome, "golden", None)
