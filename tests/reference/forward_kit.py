"""Our own forward pass, run on prompts; and what it showed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from goldens import Golden

import llamatools
from llamatools.reference.observe import Point, Prompt
from llamatools.reference.run import RunReport, run
from llamatools.reference.settings import Settings

CPU = Settings(device="cpu")


@dataclass
class Seen:
    """An observer that keeps all it is shown, in order."""

    points: list[tuple[Point, int]] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    rows: list[tuple[int, range]] = field(default_factory=list)
    parts: list[torch.Tensor] = field(default_factory=list)

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        self.points.append((point, prompt))
        self.states.append(x.clone().cpu())

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        self.rows.append((prompt, rows))
        self.parts.append(x.clone().cpu())

    def of(self, prompt: int) -> torch.Tensor:
        """All logits of a prompt; its rows must have been shown in order."""
        mine = [(r, x) for (p, r), x in zip(self.rows, self.parts, strict=True) if p == prompt]
        assert [i for r, _ in mine for i in r] == list(range(mine[-1][0].stop))
        return torch.cat([x for _, x in mine])

    def same(self, other: Seen) -> bool:
        """Whether the other was shown the same, bit for bit."""
        pairs = list(zip([*self.states, *self.parts], [*other.states, *other.parts], strict=True))
        return (
            (self.points, self.rows) == (other.points, other.rows)
            and all(torch.equal(a, b) for a, b in pairs)
            and len(pairs) > 0
        )


def prompt(golden: Golden, rows: slice = slice(None)) -> Prompt:
    tokens, positions = (golden.saved[k][rows].tolist() for k in ("tokens", "positions"))
    return Prompt(golden.name, tuple(tokens), tuple(positions))


def plain(*tokens: int) -> Prompt:
    """Tokens at positions 0, 1, 2, ..."""
    return Prompt("plain", tokens, tuple(range(len(tokens))))


def seen(
    source: Path | llamatools.Checkpoint, prompts: Sequence[Prompt], settings: Settings = CPU
) -> Seen:
    """What a pass of these prompts shows."""
    return shown(source, prompts, settings)[0]


def shown(
    source: Path | llamatools.Checkpoint, prompts: Sequence[Prompt], settings: Settings = CPU
) -> tuple[Seen, RunReport]:
    if isinstance(source, Path):
        with llamatools.open_checkpoint(source) as opened:
            return shown(opened, prompts, settings)
    observer = Seen()
    report = run(source, prompts, observer, settings)
    return observer, report


def logits(source: Path | llamatools.Checkpoint, golden: Golden, **settings: Any) -> torch.Tensor:
    """Of the golden's own prompt."""
    return seen(source, [prompt(golden)], Settings(**{"device": "cpu"} | settings)).of(0)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """rms(difference) / std(logits)"""
    a, b = found.double(), wanted.double()
    assert a.shape == b.shape and bool(torch.isfinite(a).all())
    return float((a - b).square().mean().sqrt() / b.std())
