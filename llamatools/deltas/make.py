"""`make-delta`: what leads from a base to a target, with the proof that it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamatools._version import __version__
from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.conversion import prepare, write
from llamatools.deltas.exact import as_exact
from llamatools.deltas.exprs import DIFFER
from llamatools.deltas.fit import check_fit, other_constants
from llamatools.deltas.kinds import ADD, TO_MAKE, XOR, ZEROS
from llamatools.deltas.proof import NAME, SCHEMA
from llamatools.deltas.values import BACK_KEY, BASE_KEY, differences, own, restored, unread
from llamatools.engine.digest import fingerprint
from llamatools.engine.outcome import Begin, Outcome
from llamatools.engine.resources import DEFAULT_MEMORY, resources
from llamatools.engine.targets import check_paths
from llamatools.errors import NotRepresentable, UsageError
from llamatools.jsonio import load_json_object
from llamatools.layouts import hf_config
from llamatools.plan.build import Options
from llamatools.plan.plan import Plan, Step
from llamatools.prepared import Prepared
from llamatools.seal import sealed

MAX_SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Making:
    """A delta that is planned and checked, and has written nothing."""

    prepared: Prepared
    """What is written."""
    base: Checkpoint
    target: Checkpoint
    kind: str
    config: Mapping[str, object]
    """config.json of an exact delta's target, which is in the proof alone."""

    @property
    def checked(self) -> Plan:
        """The plan, with what proves it: after each tensor, what applying will make of it.

        By then its data are in the page cache, so that reading them again costs little.
        """
        plan = self.prepared.plan
        steps: list[Step] = []
        for step in plan.steps:
            steps += (step, restored(self.base, self.target, self.kind, step.name))
        names = [s.name for s in plan.steps]
        return replace(plan, steps=tuple(steps), unused=unread(self.base, names, BASE_KEY))


def make_delta(
    base: str | Path,
    target: str | Path,
    out: str | Path,
    *,
    kind: str = ADD,
    max_shard_size: int = MAX_SHARD_SIZE,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> dict[str, object]:
    """Make the delta from a base to a target; returns its proof, which is also in the output."""
    with open_checkpoint(base) as opened, open_checkpoint(target) as wanted:
        return run_making(
            prepare_making(
                opened,
                wanted,
                out,
                kind=kind,
                max_shard_size=max_shard_size,
                jobs=jobs,
                max_memory=max_memory,
                force=force,
            )
        )


def prepare_making(
    base: Checkpoint,
    target: Checkpoint,
    out: str | Path,
    *,
    kind: str = ADD,
    max_shard_size: int = MAX_SHARD_SIZE,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> Making:
    """Plan it, and check everything that can be checked before writing."""
    if kind not in TO_MAKE:
        raise UsageError(f"--kind {kind}: expected {' or '.join(TO_MAKE)}")
    check_paths(base.path, Path(out), force=force)
    check_fit(base.spec, target.spec, word="target", may_tie=True)
    conflicts = [f"base: {c}" for c in base.conflicts] + [f"target: {c}" for c in target.conflicts]
    notes = [f"base: {n}" for n in base.notes] + [f"target: {n}" for n in target.notes]
    notes += other_constants(base.spec, target.spec, word="target")
    source = replace(
        target,
        values=differences(base, target, kind),
        conflicts=tuple(conflicts),
        notes=tuple(notes),
    )
    options = Options(to="hf", max_shard_size=max_shard_size)
    prepared = prepare(source, out, options, jobs=jobs, max_memory=max_memory, force=force)
    config = load_json_object(prepared.plan.documents[hf_config.NAME], hf_config.NAME)
    if kind == XOR:
        prepared = replace(prepared, plan=as_exact(prepared.plan, max_shard_size))
    making = Making(prepared, base, target, kind, config)
    limits = resources(making.checked, jobs, max_memory)
    return replace(making, prepared=replace(prepared, limits=limits))


def run_making(making: Making, begin: Begin = lambda total: lambda done: None) -> dict[str, object]:
    """Write the delta and publish it; returns its proof."""
    prepared = replace(making.prepared, plan=making.checked)

    def proof(outcome: Outcome, files: Mapping[str, tuple[int, str]]) -> dict[str, object]:
        if making.kind == ADD:
            _check_finite(making, outcome)
        return _proof(making, outcome, files)

    return write(prepared, NAME, proof, begin)


def _check_finite(making: Making, outcome: Outcome) -> None:
    """NotRepresentable where values are no numbers, which no sum leads to."""
    problems = [
        f"{step.name}: {n:,} values of the target, or of target - base, are NaN or infinite"
        for step in making.prepared.plan.steps
        if (n := outcome.counts[BACK_KEY.format(step.name)].get("not_finite", 0))
    ]
    if problems:
        raise NotRepresentable(problems[:20], hint="--kind xor makes a delta of any values")


def _proof(
    making: Making, outcome: Outcome, files: Mapping[str, tuple[int, str]]
) -> dict[str, object]:
    plan, base, target = making.prepared.plan, making.base, making.target
    names = [step.name for step in plan.steps]
    back = {name: BACK_KEY.format(name) for name in names}
    inexact = {n: outcome.counts.get(back[n], {}).get(DIFFER, 0) for n in names}
    grows = target.spec.vocab_size > base.spec.vocab_size
    document: dict[str, object] = {
        "$schema": SCHEMA,
        "tool": {"name": "llamatools", "version": __version__},
        "kind": making.kind,
        "padding": ZEROS if grows else None,
        "fingerprint": fingerprint({n: outcome.tensors[n] for n in names}),
        "base": {
            "title": base.identity.title,
            "fingerprint": fingerprint({n: outcome.before[BASE_KEY.format(n)] for n in own(base)}),
        },
        "target": {
            "title": target.identity.title,
            "fingerprint": fingerprint(
                {n: outcome.before.get(n) or outcome.tensors[back[n]] for n in names}
            ),
        },
        "values": sum(step.value.rows * step.value.columns for step in plan.steps),
        "inexact": sum(inexact.values()),
        "config": making.config if making.kind == XOR else None,
        "conflicts": [*making.prepared.source.conflicts, *plan.conflicts],
        "notes": [*making.prepared.source.notes, *plan.notes],
        "tokenizer": plan.tokenizer,
        "files": [
            {"name": name, "bytes": size, "blake3": digest}
            for name, (size, digest) in sorted(files.items())
        ],
        "tensors": [
            {
                "name": step.name,
                "dtype": target.values[step.name].dtype.name,
                "shape": list(step.value.shape),
                "blake3": outcome.tensors[back[step.name]],
                "inexact": inexact[step.name],
            }
            for step in plan.steps
        ],
    }
    return sealed(document)
