"""The golden checkpoints, and how far logits are from theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
HOME = ROOT / "golden"

TOLERANCE = 2e-5
"""rms(difference) / std(logits) between implementations that compute in float32."""

DEFECT = 1e-2
"""What a wrong conversion shows at least, so that the tolerance is no matter of luck."""

FILES = (1, 2, 4)

AsHf = Callable[[Path], Path]
"""From a folder to its conversion to HF layout, made once."""

Measured = Callable[["Golden", float], None]
"""Takes note of an error, for the table that `-v` prints at the end."""

_PROVENANCE = json.loads((HOME / "provenance.json").read_text())


@dataclass(frozen=True)
class Golden:
    """One golden model. What is expected of it comes from its provenance, not from llamatools."""

    name: str

    def __str__(self) -> str:
        return self.name

    def folder(self, files: int) -> Path:
        return HOME / self.name / f"mp{files}"

    @property
    def prompt(self) -> Path:
        """A file of tokens, positions and the logits they must give."""
        return HOME / self.name / "golden.safetensors"

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = _PROVENANCE["models"][self.name]
        return facts

    @cached_property
    def saved(self) -> dict[str, torch.Tensor]:
        return load_file(self.prompt)

    def error(self, found: torch.Tensor, at: slice = slice(None)) -> float:
        """rms(difference) / std(logits) over the positions `at`; all of them by default."""
        wanted = self.saved["logits"].double()
        assert found.shape == wanted.shape and torch.isfinite(found).all()
        difference = (found.double() - wanted)[at]
        return float(difference.square().mean().sqrt() / wanted.std())


GOLDENS = tuple(Golden(name) for name in sorted(_PROVENANCE["models"]))
BY_NAME = {g.name: g for g in GOLDENS}
