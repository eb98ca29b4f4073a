"""A plan split by its files: over processes, or into parts done one after the other.

A tensor that goes into files of several processes is read whole by each of them, so each has its
digest, and all must have the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace

from blake3 import blake3

from llamatools._version import __version__
from llamatools.containers.base import InputFile
from llamatools.engine.outcome import Outcome
from llamatools.engine.traits import traits
from llamatools.errors import BadInput, CheckFailed
from llamatools.plan.plan import Plan, Step
from llamatools.text import safe


def part_of(plan: Plan, rank: int, size: int) -> Plan:
    """Every `size`-th file, from number `rank` on, and the steps that lead there.

    What is read for its digest alone belongs to process 0.
    """
    return _part(plan, range(rank, len(plan.files), size), unused=rank == 0)


def parts(plan: Plan) -> list[Plan]:
    """Parts that have no step in common, in the order of their files: each can be done alone.

    What is read for its digest alone belongs to the first. Steps that lead to no file hang
    together with those around them, so that there is one part only.
    """
    if any(not s.targets for s in plan.steps):
        return [plan]
    groups: dict[int, set[int]] = {i: {i} for i in range(len(plan.files))}
    for step in plan.steps:
        joined = set().union(*(groups[t.file] for t in step.targets))
        groups.update(dict.fromkeys(joined, joined))
    found = sorted({min(g): sorted(g) for g in groups.values()}.items())
    if len(found) < 2:
        return [plan]
    return [_part(plan, files, unused=first == 0) for first, files in found]


def _part(plan: Plan, files: Collection[int], *, unused: bool) -> Plan:
    place = {file: i for i, file in enumerate(files)}

    def here(step: Step) -> Step:
        targets = (t for t in step.targets if t.file in place)
        return replace(step, targets=tuple(replace(t, file=place[t.file]) for t in targets))

    return replace(
        plan,
        steps=tuple(s for s in map(here, plan.steps) if s.targets),
        files=tuple(plan.files[f] for f in place),
        unused=plan.unused if unused else (),
    )


def inputs(plan: Plan) -> list[InputFile]:
    """Every file that is read, in an order that all processes have."""
    return list(dict.fromkeys(t.file for s in plan.work for t in s.value.reads()))


def check_unchanged(plan: Plan) -> None:
    """BadInput where a file is not what it was when it was opened: what was read may be of both."""
    changed = [f"{safe(f.path)}: was changed while it was read" for f in inputs(plan) if f.changed]
    if changed:
        raise BadInput(changed, hint="run it again when nobody writes there")


def identity(plan: Plan) -> str:
    """A digest of what will be done, in which two plans differ that would write other bytes."""
    h = blake3(__version__.encode())
    for thing in (
        [(f.name, f.size) for f in inputs(plan)],
        [(f.name, f.layout.size) for f in plan.files],
        plan.work,
        sorted((name, blake3(data).hexdigest()) for name, data in plan.documents.items()),
        plan.travellers,
        plan.merge,
    ):
        for word in traits(thing):
            h.update(word.encode(errors="surrogateescape") + b"\n")
    return h.hexdigest()


def united(outcomes: Sequence[Outcome], who: str = "process") -> Outcome:
    """What all found out, by number. CheckFailed where they contradict each other."""
    out, problems = Outcome(), []
    for what in (f.name for f in fields(Outcome) if f.default_factory is dict):
        known: dict[str, object] = getattr(out, what)
        for number, outcome in enumerate(outcomes):
            found: Mapping[str, object] = getattr(outcome, what)
            for name, value in found.items():
                if known.setdefault(name, value) != value:
                    problems.append(f"{name}: {who} {number} read other values than those before")
    if problems:
        raise CheckFailed(
            problems,
            hint="the input changes meanwhile or is not the same on every machine, machines differ "
            "in their arithmetic, or the memory of one is failing",
        )
    return out
