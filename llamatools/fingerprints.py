"""Fingerprints of checkpoints, and which tensors differ between two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.engine.digest import fingerprint as combine
from llamatools.engine.execute import execute
from llamatools.engine.outcome import Begin
from llamatools.engine.resources import DEFAULT_MEMORY, resources
from llamatools.plan.build import plan_fingerprint


@dataclass(frozen=True)
class TensorDigest:
    dtype: str
    shape: tuple[int, ...]
    blake3: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} {self.blake3[:16]}"


@dataclass(frozen=True)
class Fingerprint:
    """A model's digest, and its tensors' under canonical names."""

    digest: str
    tensors: dict[str, TensorDigest]


@dataclass(frozen=True)
class Difference:
    """A tensor that two models do not share; None where a model lacks it."""

    name: str
    left: TensorDigest | None
    right: TensorDigest | None


def fingerprint(
    source: str | Path | Checkpoint,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    begin: Begin = lambda total: lambda done: None,
) -> Fingerprint:
    """Read a whole checkpoint and digest it; equal for every lossless layout of one model."""
    if not isinstance(source, Checkpoint):
        with open_checkpoint(source) as opened:
            return fingerprint(opened, jobs=jobs, max_memory=max_memory, begin=begin)
    plan = plan_fingerprint(source)
    progress = begin(sum(s.value.nbytes for s in plan.steps))
    outcome = execute(plan, resources(plan, jobs, max_memory), progress=progress)
    tensors = {
        s.name: TensorDigest(s.value.dtype.name, s.value.shape, outcome.tensors[s.name])
        for s in plan.steps
    }
    return Fingerprint(combine(outcome.tensors), tensors)


def differences(left: Fingerprint, right: Fingerprint) -> list[Difference]:
    """Every tensor that differs, in name order. A tied head counts as the embedding's copy."""
    a, b = _with_head(left), _with_head(right)
    return [
        Difference(name, a.get(name), b.get(name))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def _with_head(f: Fingerprint) -> dict[str, TensorDigest]:
    return {HEAD: f.tensors[EMBEDDING], **f.tensors}
