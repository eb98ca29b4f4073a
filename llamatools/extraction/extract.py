"""`extract-lora`: from two checkpoints to a PEFT adapter, one tensor at a time.

Memory holds one matrix of differences (4 bytes a number; 8 where either model is fp32), what
factors.py needs for it, and its factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from llamatools.adapters import config as peft
from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.containers.base import InputFile
from llamatools.engine.execute import execute
from llamatools.engine.newfile import write_document
from llamatools.engine.outcome import Begin
from llamatools.engine.place import staging
from llamatools.engine.publish import publish
from llamatools.engine.resources import resources
from llamatools.engine.targets import check_paths, check_space
from llamatools.errors import BadInput, CheckFailed
from llamatools.extraction.adapter import Adapter, assemble
from llamatools.extraction.choice import Extract, Task, Use, choose
from llamatools.extraction.crew import Crew
from llamatools.extraction.pairs import pair_up, tied_in_both
from llamatools.extraction.report import build_notes, build_report
from llamatools.extraction.spool import Spool
from llamatools.extraction.work import Found, Worker, total_error
from llamatools.jsonio import dump_json
from llamatools.plan.build import DTYPES
from llamatools.plan.carry import FILES as TOKENIZER_FILES
from llamatools.text import listing

_SPOOL = "factors"


def extract_lora(
    base: str | Path,
    tuned: str | Path,
    out: str | Path,
    wishes: Extract,
    *,
    jobs: int | None = None,
    force: bool = False,
) -> dict[str, object]:
    """Write the adapter that makes `tuned` of `base`; returns a report of what it holds and loses.

    Raises an error of llamatools.errors, and then leaves no output behind.
    """
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        return extract(a, b, out, wishes, jobs=jobs, force=force)


def extract(
    base: Checkpoint,
    tuned: Checkpoint,
    out: str | Path,
    wishes: Extract,
    *,
    jobs: int | None = None,
    force: bool = False,
    begin: Begin = lambda total: lambda done: None,
) -> dict[str, object]:
    """The same for opened checkpoints. `begin` is called for reading both, and for writing."""
    target = Path(out)
    for source in (base, tuned):
        check_paths(source.path, target, force=force)
    tied = tied_in_both(base, tuned)
    tasks = choose(pair_up(base, tuned), wishes, tied=tied)
    check_space(target, sum(_largest(t, wishes) for t in tasks))
    with staging(target, force=force) as folder:
        with Spool(folder / _SPOOL) as spool:
            with Crew(jobs) as crew:
                progress = begin(sum(t.pair.nbytes for t in tasks))
                found = Worker(wishes, spool, crew, tied=tied).all(tasks, progress)
            _check(found, wishes)
            adapter = assemble(found, wishes, spool, tied=tied)
            documents = _documents(base, tuned, wishes, adapter, found)
            files = [(n, len(d), blake3(d).hexdigest()) for n, d in documents.items()]
            files += _write(base, adapter, folder, sum(n for _, n, _ in files), jobs, begin)
        for name, data in documents.items():
            write_document(folder / name, data)
        notes = build_notes(base, tuned, adapter, found)
        report = build_report(base, tuned, wishes, adapter, found, files, notes)
        publish(folder, target, force=force)
    return report


def _largest(task: Task, wishes: Extract) -> int:
    """Bytes of a task's factors, if they have the whole rank."""
    if task.use is not Use.FACTORS:
        return 0
    shape = task.pair.base.shape
    return min(wishes.rank, *shape) * sum(shape) * DTYPES[wishes.dtype].size


def _check(found: Sequence[Found], wishes: Extract) -> None:
    """Refuse an adapter that would hold nothing, or too little."""
    different = [f for f in found if f.differs]
    if not different:
        raise BadInput("the two models hold the same numbers: there is nothing to extract")
    left = [f for f in different if f.use is Use.OUT]
    if len(left) == len(different):
        raise BadInput(
            f"all that differs is left out: {listing(f.pair.native for f in left)}",
            hint="--modules and --save-modules name what the adapter is to hold",
        )
    error = total_error(different)
    if wishes.max_error is not None and error > wishes.max_error:
        worst = sorted(different, key=lambda f: -f.lost)[:5]
        listed = (f"{f.pair.native} {f.use.value} ({f.error:.3g})" for f in worst)
        raise CheckFailed(
            f"the total error is {error:.3g}, more than --max-error {wishes.max_error:g}; "
            f"most of it: {listing(listed)}",
            hint="a higher --rank lowers the errors of factors"
            + ("; --modules and --save-modules name what is left out" if left else ""),
        )


def _documents(
    base: Checkpoint, tuned: Checkpoint, wishes: Extract, adapter: Adapter, found: Sequence[Found]
) -> dict[str, bytes]:
    """The config, and the tuned model's tokenizer unless the adapter lacks its vocabulary."""
    out = {peft.NAME: dump_json(adapter.config(base, wishes))}
    if any(f.pair.grows and f.use is Use.OUT for f in found):
        return out
    for name in sorted(tuned.folder.names & TOKENIZER_FILES):
        file = InputFile(tuned.folder.path / name)
        try:
            out[name] = file.read(0, file.size)
        finally:
            file.close()
    return out


def _write(
    base: Checkpoint, adapter: Adapter, folder: Path, others: int, jobs: int | None, begin: Begin
) -> list[tuple[str, int, str]]:
    """The weight file, in a folder that gets `others` bytes more; (name, bytes, BLAKE3) of it."""
    plan = adapter.plan(base)
    check_space(folder, plan.write_bytes + others)
    progress = begin(sum(s.value.nbytes for s in plan.steps))
    outcome = execute(plan, resources(plan, jobs), folder, progress)
    return [(f.name, f.layout.size, outcome.files[f.name]) for f in plan.files]
