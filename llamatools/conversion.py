"""Conversion from end to end: open, plan, run, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import fsync
from pathlib import Path

from blake3 import blake3

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.containers.base import InputFile
from llamatools.engine.environment import check_alone
from llamatools.engine.execute import DEFAULT_MEMORY, Outcome, Resources, execute, resources
from llamatools.engine.publish import (
    check_kept,
    check_paths,
    check_space,
    publish,
    staging,
    write_document,
)
from llamatools.engine.sink import io_failed
from llamatools.history import NAME as MANIFEST
from llamatools.jsonio import dump_json
from llamatools.manifest import build_manifest
from llamatools.plan.build import Options, plan_conversion
from llamatools.plan.carry import NONE
from llamatools.plan.passes.finite import check_finite, watched
from llamatools.plan.plan import Plan

_DOCUMENT_RESERVE = 1 << 20
"""Space set aside for the manifest, whose size is not known beforehand, per thousand tensors."""

Begin = Callable[[int], Callable[[int], None]]
"""Called with the bytes of model data to come; returns what takes note of bytes done."""

Perform = Callable[[Plan, Resources, Path, Begin], Outcome]
"""How a plan is carried out, with its weight files in a folder: `execute`, or several processes."""

Report = Callable[[Outcome, Mapping[str, tuple[int, str]]], dict[str, object]]
"""Called with what a run found out and its files, name -> (bytes, BLAKE3); returns what to say of
them in a document. Where it raises, nothing is published."""


Proof = Callable[[Path, str, Mapping[str, object]], Mapping[str, object]]
"""Called with the finished staging folder, the name of the document in it, and what that says;
returns what `run` says besides. Where it raises, nothing is published."""


def _hold_nothing(outcome: Outcome) -> None:
    """For commands that promise no more than any conversion."""


def _prove_nothing(folder: Path, name: str, found: Mapping[str, object]) -> Mapping[str, object]:
    """For output that nobody asked to have read back."""
    return {}


def _alone(plan: Plan, limits: Resources, folder: Path, begin: Begin) -> Outcome:
    return execute(plan, limits, folder, begin(sum(s.value.nbytes for s in plan.work)))


@dataclass(frozen=True)
class Prepared:
    """A conversion that is planned and checked, and has written nothing."""

    source: Checkpoint
    out: Path
    options: Options
    plan: Plan
    limits: Resources
    force: bool
    origin: Checkpoint | None = None
    """Whose weights are changed, where the files that go along are another checkpoint's."""
    check: Callable[[Outcome], None] = _hold_nothing
    """What the command promises of the result; raises CheckFailed where it does not hold."""
    prove: Proof = _prove_nothing
    """How the output is looked at before it gets its name."""

    @property
    def disk_needed(self) -> int:
        """Bytes the output takes, its manifest estimated."""
        travellers = sum(
            (self.source.folder.path / name).stat().st_size for name in self.plan.travellers
        )
        manifest = _DOCUMENT_RESERVE * (1 + len(self.plan.steps) // 1000)
        return self.plan.write_bytes + travellers + manifest


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
    return Prepared(source, target, options, plan, resources(plan, jobs, max_memory), force)


def run(
    prepared: Prepared,
    begin: Begin = lambda total: lambda done: None,
    perform: Perform = _alone,
) -> dict[str, object]:
    """Write the output and publish it; returns its manifest, and what was proven of it."""
    source, plan = prepared.source, prepared.plan

    def manifest(outcome: Outcome, files: Mapping[str, tuple[int, str]]) -> dict[str, object]:
        check_finite(plan, outcome.counts)
        prepared.check(outcome)
        return build_manifest(source, prepared.options, plan, outcome, files, prepared.origin)

    return write(prepared, MANIFEST, manifest, begin, perform)


def write(
    prepared: Prepared, name: str, report: Report, begin: Begin, perform: Perform = _alone
) -> dict[str, object]:
    """Write the output, with the report on it in the file `name`, and publish it."""
    plan, source = prepared.plan, prepared.source
    if perform is _alone:
        check_alone("a conversion")
    check_space(prepared.out, prepared.disk_needed)
    with staging(prepared.out) as folder:
        files: dict[str, tuple[int, str]] = {}
        for document, data in plan.documents.items():
            write_document(folder / document, data)
            files[document] = len(data), blake3(data).hexdigest()
        for traveller in plan.travellers:
            files[traveller] = _copy(source.folder.path / traveller, folder / traveller)
        outcome = perform(plan, prepared.limits, folder, begin)
        for f in plan.files:
            files[f.name] = f.layout.size, outcome.files[f.name]
        found = report(outcome, files)
        write_document(folder / name, dump_json(found))
        proven = prepared.prove(folder, name, found)
        publish(folder, prepared.out, force=prepared.force)
    return {**found, **proven}


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
        with target.open("xb") as out:
            for block in file.blocks():
                hasher.update(block)
                out.write(block)
            out.flush()
            fsync(out.fileno())
    except OSError as e:
        raise io_failed(target, "writing", e) from e
    finally:
        file.close()
    return file.size, hasher.hexdigest()
