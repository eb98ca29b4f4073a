"""Runs the contenders in turn, A B C A B C ..., each from the same starting state."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contenders import Contender
from measure import ChildFailed, Run, run

_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What one contender did. `equal` is None while its output has not been compared."""

    runs: list[Run] = field(default_factory=list)
    failure: str | None = None
    equal: bool | None = None
    comparison: str = ""


def run_rounds(
    contenders: Sequence[Contender], folder: Path, *, rehearse: bool
) -> dict[str, Outcome]:
    """All rounds, in `folder`, which is removed. A contender that fails once is left out.

    With `rehearse` each timed run directly follows an untimed one of the same command. What the
    contenders print goes to `logs` beside the folder, a file each.
    """
    outcomes = {contender.name: Outcome() for contender in contenders}
    logs = folder.with_name("logs")
    logs.mkdir(exist_ok=True)
    try:
        for number in range(max(contender.rounds for contender in contenders)):
            for contender in contenders:
                outcome = outcomes[contender.name]
                if outcome.failure is None and number < contender.rounds:
                    log = logs / f"{contender.name}.log"
                    _turn(contender, outcome, folder, log, rehearse=rehearse)
                    _tell(f"round {number + 1}: {contender.name}: {_last(outcome)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _turn(
    contender: Contender, outcome: Outcome, folder: Path, log: Path, *, rehearse: bool
) -> None:
    """One run from a state that does not depend on who ran before.

    A hypervisor may take back memory that stays free, and whoever uses it next waits for it. A
    rehearsal leaves the memory that the same command needs just freed.
    """
    try:
        _fresh(folder)
        _warm(contender.source)
        if rehearse:
            run(contender.argv, log=log, cwd=_REPOSITORY, env=contender.env)
            _fresh(folder)
        outcome.runs.append(run(contender.argv, log=log, cwd=_REPOSITORY, env=contender.env))
    except (ChildFailed, OSError) as error:
        outcome.failure = str(error)
        return
    if outcome.equal is None:
        outcome.equal, outcome.comparison = _check(contender)


def _fresh(folder: Path) -> None:
    """No output, and nothing left to be written that a run's own sync would wait for."""
    os.sync()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _warm(source: Path) -> None:
    """Brings the input into the page cache, as far as it fits."""
    buffer = bytearray(1 << 20)
    for path in source.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _check(contender: Contender) -> tuple[bool, str]:
    argv = [*contender.check, str(contender.out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["no answer"]
    more = f" and {len(lines) - 3} lines more" if len(lines) > 3 else ""
    return done.returncode == 0, "; ".join(lines[:3]) + more


def _last(outcome: Outcome) -> str:
    return outcome.failure or f"{outcome.runs[-1].wall:.2f} s"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
