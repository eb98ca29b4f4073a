"""A plan split over processes by its files, and what they found out united.

A tensor that goes into files of several processes is read whole by each of them, so each has its
digest, and all must have the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from blake3 import blake3

from llamatools._version import __version__
from llamatools.containers.base import InputFile
from llamatools.engine.execute import Outcome
from llamatools.errors import CheckFailed
from llamatools.plan.plan import Plan, Step


def part_of(plan: Plan, rank: int, size: int) -> Plan:
    """Every `size`-th file, from number `rank` on, and the steps that lead there.

    What is read for its digest alone belongs to process 0.
    """
    place = {file: i for i, file in enumerate(range(rank, len(plan.files), size))}

    def here(step: Step) -> Step:
        targets = (t for t in step.targets if t.file in place)
        return replace(step, targets=tuple(replace(t, file=place[t.file]) for t in targets))

    steps = tuple(s for s in map(here, plan.steps) if s.targets)
    unused = plan.unused if rank == 0 else ()
    return replace(plan, steps=steps, files=tuple(plan.files[f] for f in place), unused=unused)


def inputs(plan: Plan) -> list[InputFile]:
    """Every file that is read, in an order that all processes have."""
    return list(dict.fromkeys(t.file for s in plan.work for t in s.value.reads()))


def identity(plan: Plan) -> str:
    """A digest of what will be done, in which two plans differ that would write other bytes."""
    h = blake3(__version__.encode())
    for line in (
        *((f.name, f.size) for f in inputs(plan)),
        *((f.name, f.layout.size) for f in plan.files),
        *((s.name, s.value.shape, s.value.describe(), s.targets) for s in plan.work),
        *sorted((name, blake3(data).hexdigest()) for name, data in plan.documents.items()),
        plan.travellers,
        plan.merge,
    ):
        h.update(f"{line}\n".encode())
    return h.hexdigest()


def united(outcomes: Sequence[Outcome]) -> Outcome:
    """What all processes found out, by rank. CheckFailed where they contradict each other."""
    out, problems = Outcome(), []
    for what in (f.name for f in fields(Outcome) if f.default_factory is dict):
        known: dict[str, object] = getattr(out, what)
        for rank, outcome in enumerate(outcomes):
            found: Mapping[str, object] = getattr(outcome, what)
            for name, value in found.items():
                if known.setdefault(name, value) != value:
                    problems.append(f"{name}: process {rank} read other values than those before")
    if problems:
        raise CheckFailed(
            problems,
            hint="the input changes meanwhile or is not the same on every machine, machines differ "
            "in their arithmetic, or the memory of one is failing",
        )
    return out
