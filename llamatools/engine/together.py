"""A plan carried out by several processes, into one folder of a file system that all share.

Process 0 makes the staging folder, writes its own files as the others write theirs, collects what
they found out, and publishes. The others' findings come as files in a folder of their own, since
they may be large; that it is the same folder is known by what process 0 put there.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from llamatools.engine.checksums import RecordChecks
from llamatools.engine.execute import execute
from llamatools.engine.newfile import io_failed, write_document
from llamatools.engine.outcome import Begin, Outcome, Perform
from llamatools.engine.processes import Processes
from llamatools.engine.resources import Resources
from llamatools.engine.split import identity, inputs, part_of, united
from llamatools.errors import BadInput, UsageError
from llamatools.plan.plan import Plan
from llamatools.text import safe

_DESK = ".processes"
_NONCE = "nonce"
_APPEARING = 10.0
"""Seconds until a new folder is seen everywhere, for file systems that remember what was not."""
_FOLDER, _DONE = "folder", "done"


def leading(processes: Processes) -> Perform:
    """What process 0 does in place of `execute`."""

    def perform(plan: Plan, limits: Resources, folder: Path, begin: Begin) -> Outcome:
        try:
            return _lead(processes, plan, limits, folder, begin)
        except BaseException as e:
            processes.abandon(e)  # the folder is about to be removed
            raise

    return perform


def _lead(
    processes: Processes, plan: Plan, limits: Resources, folder: Path, begin: Begin
) -> Outcome:
    desk, nonce = folder / _DESK, secrets.token_hex(16)
    try:
        desk.mkdir()
    except OSError as e:
        raise io_failed(desk, "creating the folder", e) from e
    write_document(desk / _NONCE, nonce.encode())
    name = folder.relative_to(folder.parents[1])
    processes.put(_FOLDER, {"name": str(name), _NONCE: nonce, "plan": identity(plan)})
    mine, checks, files = part_of(plan, 0, processes.size), RecordChecks(), inputs(plan)
    progress = processes.watching(begin(sum(s.value.nbytes for s in mine.work)))
    outcomes = [execute(mine, limits, folder, progress, checks)]
    for rank in processes.others:
        processes.take(f"{_DONE} {rank}", rank)
        try:
            found = json.loads(_findings(desk, rank).read_bytes())
        except OSError as e:
            raise io_failed(_findings(desk, rank), "reading", e) from e
        outcomes.append(Outcome(**found["outcome"]))
        checks.add(found["checks"], files)
    outcome = united(outcomes)
    outcome.records_checked, outcome.records_partial = checks.finish()
    shutil.rmtree(desk)
    return outcome


def published(processes: Processes) -> None:
    """Process 0 tells the others that all is well."""
    processes.put(_DONE)


def follow(processes: Processes, plan: Plan, limits: Resources, out: Path) -> None:
    """What any other process does; it returns when the output is there."""
    rank = processes.rank
    told = processes.take(_FOLDER, 0)
    folder = out.parent.resolve() / told["name"]
    _check_shared(processes, folder, told[_NONCE])
    if told["plan"] != identity(plan):
        raise BadInput(
            "another input, or another version of llamatools, than process 0 has",
            hint="all processes need the same files, options and versions",
        )
    checks = RecordChecks()
    mine = part_of(plan, rank, processes.size)
    outcome = execute(mine, limits, folder, processes.watching(lambda done: None), checks)
    found = {"outcome": asdict(outcome), "checks": checks.seen(inputs(plan))}
    write_document(_findings(folder / _DESK, rank), json.dumps(found).encode())
    processes.put(f"{_DONE} {rank}")
    processes.take(_DONE, 0)


def _findings(desk: Path, rank: int) -> Path:
    return desk / f"{rank}.json"


def _check_shared(processes: Processes, folder: Path, nonce: str) -> None:
    """UsageError where this process does not see what process 0 wrote."""
    end = time.monotonic() + _APPEARING
    while True:
        try:
            if (folder / _DESK / _NONCE).read_text() == nonce:
                return
        except OSError:
            pass
        processes.check()
        if time.monotonic() > end:
            raise UsageError(
                f"{safe(folder.parent)} is not the folder that process 0 writes to",
                hint="processes on several machines need OUT on a file system that all share",
            )
        time.sleep(0.1)
