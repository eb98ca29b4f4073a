"""Conversion from end to end: open, plan, run, publish.

A run that is cut short leaves what it has finished (engine/work.py), and the same command goes on
from there. Its output is read back before it is published, whoever asked for that or not: what an
earlier run wrote down of its tensors is held against the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.containers.base import InputFile
from llamatools.engine.environment import check_alone
from llamatools.engine.execute import alone
from llamatools.engine.newfile import NewFile, write_document
from llamatools.engine.outcome import Begin, Outcome, Perform
from llamatools.engine.place import Place, occupied
from llamatools.engine.publish import publish
from llamatools.engine.resources import DEFAULT_MEMORY, Resources, resources
from llamatools.engine.split import check_unchanged
from llamatools.engine.targets import check_kept, check_paths, check_space
from llamatools.engine.words import say
from llamatools.engine.work import Work
from llamatools.errors import BadInput
from llamatools.history import NAME as MANIFEST
from llamatools.jsonio import dump_json
from llamatools.manifest import build_manifest
from llamatools.plan.build import Options, plan_conversion
from llamatools.plan.carry import NONE
from llamatools.plan.passes.finite import check_finite, watched
from llamatools.plan.plan import Plan
from llamatools.prepared import Prepared, prove_nothing
from llamatools.readback import read_back
from llamatools.text import safe

Report = Callable[[Outcome, Mapping[str, tuple[int, str]]], dict[str, object]]
"""Called with what a run found out and its files, name -> (bytes, BLAKE3); returns what to say of
them in a document. Where it raises, nothing is published."""


@dataclass
class _AtOnce:
    """What stands in for Work where an interruption leaves nothing."""

    plan: Plan
    place: Place
    perform: Perform
    bytes_there = 0
    resumed = False

    def __post_init__(self) -> None:
        self.place.clear()

    def carry_out(self, limits: Resources, begin: Begin, *, more: bool) -> Outcome:
        return self.perform(self.plan, limits, self.place.folder, begin)


def prepare(
    source: Checkpoint,
    out: str | Path,
    options: Options,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
    amend: Callable[[Plan], Plan] = lambda plan: plan,
) -> Prepared:
    """Plan a conversion and check everything that can be checked before the first byte.

    `amend` is what a command that changes the model says of it in the plan.
    """
    target = Path(out)
    check_paths(source.path, target, force=force)
    if options.tokenizer not in (None, NONE):
        check_kept(target, [Path(options.tokenizer)])
    plan = amend(plan_conversion(source, options))
    wanted = options.check_finite
    if wanted or (wanted is None and plan.merge is not None):
        plan = watched(plan)
    limits = resources(plan, jobs, max_memory)
    return Prepared(source, target, options, plan, limits, force, max_memory=max_memory)


def run(
    prepared: Prepared,
    begin: Begin = lambda total: lambda done: None,
    perform: Perform | None = None,
) -> dict[str, object]:
    """Write the output and publish it; returns its manifest, and what was proven of it.

    Without `perform`, part by part: what is finished outlives an interruption.
    """
    source, plan = prepared.source, prepared.plan

    def manifest(outcome: Outcome, files: Mapping[str, tuple[int, str]]) -> dict[str, object]:
        check_finite(plan, outcome.counts)
        prepared.check(outcome)
        return build_manifest(source, prepared.options, plan, outcome, files, prepared.origin)

    return write(prepared, MANIFEST, manifest, begin, perform)


def write(
    prepared: Prepared,
    name: str,
    report: Report,
    begin: Begin,
    perform: Perform | None = alone,
) -> dict[str, object]:
    """Write the output, with the report on it in the file `name`, and publish it."""
    plan, source = prepared.plan, prepared.source
    if perform is None:
        check_alone("a conversion")
    with occupied(prepared.out, force=prepared.force) as place:
        work = Work(plan, place) if perform is None else _AtOnce(plan, place, perform)
        check_space(prepared.out, prepared.disk_needed - work.bytes_there)
        files: dict[str, tuple[int, str]] = {}
        for document, data in plan.documents.items():
            write_document(place.folder / document, data)
            files[document] = len(data), blake3(data).hexdigest()
        for traveller in plan.travellers:
            files[traveller] = _copy(source.folder.path / traveller, place.folder / traveller)
        more = prepared.prove is not prove_nothing
        outcome = work.carry_out(prepared.limits, begin, more=more)
        check_unchanged(plan)
        place.check()
        for f in plan.files:
            files[f.name] = f.layout.size, outcome.files[f.name]
        found = report(outcome, files)
        write_document(place.folder / name, dump_json(found))
        if work.resumed and prepared.prove is prove_nothing:
            _read_back(prepared, place.folder, name, found)
        proven = prepared.prove(place.folder, name, found)
        publish(place.folder, prepared.out, force=prepared.force)
    return {**found, **proven}


def _read_back(prepared: Prepared, folder: Path, name: str, found: Mapping[str, object]) -> None:
    say("reading the output back, since an earlier run wrote a part of it")
    jobs, memory = prepared.limits.jobs, prepared.max_memory
    read_back(folder, name, found, jobs=jobs, max_memory=memory, begin=prepared.reread)


def convert(
    source: str | Path,
    out: str | Path,
    options: Options,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> dict[str, object]:
    """Convert a checkpoint; returns the manifest, which is also in the output.

    Raises an error of llamatools.errors, and then leaves no output behind.
    """
    with open_checkpoint(source) as opened:
        return run(prepare(opened, out, options, jobs=jobs, max_memory=max_memory, force=force))


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file that travels unchanged; returns its size and BLAKE3."""
    file = InputFile(source)
    hasher = blake3()
    try:
        out = NewFile(target)
        try:
            for block in file.blocks():
                hasher.update(block)
                out.append(block)
            out.finish()
        finally:
            out.drop()
        if file.changed:
            raise BadInput(f"{safe(source)}: was changed while it was read")
    finally:
        file.close()
    return file.size, hasher.hexdigest()
