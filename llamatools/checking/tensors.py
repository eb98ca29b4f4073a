"""Which tensors damage is in, and whether the fingerprint belongs to the files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checking.claims import Claim, Problem
from llamatools.checkpoint import open_checkpoint
from llamatools.deltas import proof
from llamatools.deltas.opening import open_delta
from llamatools.engine.execute import execute
from llamatools.engine.outcome import Begin
from llamatools.engine.resources import resources
from llamatools.errors import BadInput, LlamatoolsError
from llamatools.fingerprints import fingerprint
from llamatools.plan.build import plan_fingerprint
from llamatools.plan.plan import Plan, Step
from llamatools.spec import ModelSpec


def damaged(
    path: Path,
    files: Collection[str],
    promised: Mapping[str, str],
    *,
    jobs: int | None,
    max_memory: int,
) -> dict[str, tuple[str, ...]]:
    """{file: canonical names of tensors in it that are not as promised}, of damaged files.

    Only what these files hold is read. Where that fails, no tensors are named. What repeats is
    told by what an archive's checksums were, since damaged copies are unlike.
    """
    found: dict[str, list[str]] = {name: [] for name in files}
    try:
        with open_checkpoint(path, probe=False) as opened:
            for step in plan_fingerprint(opened).steps:
                held = {t.file.name for t in step.value.reads()} & found.keys()
                if held and not _as_promised(opened.spec, step, promised, jobs, max_memory):
                    for name in held:
                        found[name].append(step.name)
    except LlamatoolsError:
        return {}
    return {name: tuple(tensors) for name, tensors in found.items()}


def _as_promised(
    spec: ModelSpec, step: Step, promised: Mapping[str, str], jobs: int | None, max_memory: int
) -> bool:
    plan = Plan(spec, (step,))
    try:
        outcome = execute(plan, resources(plan, jobs, max_memory))
    except BadInput:  # an archive's own checksum, or copies that differ
        return False
    known = promised.get(step.name) or (promised.get(EMBEDDING) if step.name == HEAD else None)
    return known is None or outcome.tensors[step.name] == known


def computed(
    path: Path, claim: Claim | None, *, jobs: int | None, max_memory: int, begin: Begin
) -> tuple[str, list[Problem]]:
    """The fingerprint of the tensors, and what is wrong where it is not the one that is claimed."""
    if claim is not None and claim.by == proof.NAME:
        with open_delta(path) as delta:
            found = fingerprint(delta.model, jobs=jobs, max_memory=max_memory, begin=begin)
    else:
        found = fingerprint(path, jobs=jobs, max_memory=max_memory, begin=begin)
    if claim is None or claim.fingerprint in (None, found.digest):
        return found.digest, []
    differ = sorted(
        name
        for name in claim.tensors.keys() & found.tensors.keys()
        if claim.tensors[name] != found.tensors[name].blake3
    )
    text = f"the tensors' is {found.digest[:16]}..., {claim.by} says {claim.fingerprint[:16]}..."
    problem = Problem(
        ".", "fingerprint", text, claim.fingerprint, found.digest, claim.by, tuple(differ)
    )
    return found.digest, [problem]
