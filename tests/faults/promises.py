"""What holds whatever befalls a run, as lists of what does not: empty where all is well.

The output is absent or complete, and by force the old one whole or the new one; beside it there is
nothing but the place where it is built; inputs are as they were; the same command, run again,
leaves the bytes that a run without faults leaves, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from disk import Contents
from forked import Ran, run
from scenes import PLACE, Stage, contents

State = dict[str, tuple[int, int, bytes]]
IO, EXISTS = 4, 5


def whole(stage: Stage, found: Contents, allowed: Sequence[str]) -> list[str]:
    """Whether the output is one of "absent", "old", "new", with nothing strange beside it."""
    out, place = stage.out.name, f".{stage.out.name}.llamatools"
    output = {n: d for n, d in found.items() if n.split("/")[0] == out}
    strange = {n.split("/")[0] for n in found} - {out, place}
    wanted = {"absent": {}, "old": stage.old, "new": stage.wanted}
    problems = [f"left behind: {sorted(strange)}"] if strange else []
    if not any(output == wanted[a] for a in allowed):
        problems.append(f"the output is not {' or '.join(allowed)}: {_difference(stage, output)}")
    return problems


def _difference(stage: Stage, output: Contents) -> str:
    wanted = stage.wanted
    if not output:
        return "it is absent"
    different = sorted(n for n in output.keys() | wanted.keys() if output.get(n) != wanted.get(n))
    return f"different from the new one: {different}"


def after_fault(stage: Stage, ran: Ran, *, force: bool, codes: Sequence[int] = (IO,)) -> list[str]:
    """Of a run that met with a fault; 0 is right as well, where the output is complete."""
    found = contents(stage.root / PLACE)
    if ran.code == 0:
        problems = whole(stage, found, ["new"])
    else:
        problems = whole(stage, found, ["old", "new"] if force else ["absent", "new"])
        if ran.code not in codes:
            problems.append(f"exit code {ran.code}: {ran.err[-600:]}")
    if "Traceback" in ran.err or "defect" in ran.err:
        problems.append(f"a traceback: {ran.err[-600:]}")
    return problems


def names_the_file(ran: Ran) -> list[str]:
    """Of a run that the system refused something: whether the message says of which file."""
    if ran.code != IO:
        return []
    names = {Path(p).name for call in ran.hit for p in (call.path, call.other) if p}
    folders = {Path(p).parent.name for call in ran.hit for p in (call.path, call.other) if p}
    if not any(n in ran.err for n in names | (folders - {""})):
        return [f"none of {sorted(names)} is named in: {ran.err[-300:]}"]
    return []


def after_rerun(
    stage: Stage, *, force: bool, prepare: Callable[[], object] = lambda: None
) -> list[str]:
    """Run the same command again. Where the output is there already, it may say so."""
    place = stage.root / PLACE
    there = not force and stage.out.exists()
    words = [*stage.words, "--force"] if force else stage.words
    ran = run(words, stage.root, prepare=prepare)
    problems = []
    if ran.code != (EXISTS if there else 0):
        problems.append(f"run again: exit code {ran.code}: {ran.err[-600:]}")
    found = contents(place)
    if found != stage.wanted:
        extra = sorted(found.keys() - stage.wanted.keys())
        lacking = sorted(n for n, d in stage.wanted.items() if found.get(n) != d)
        problems.append(f"run again: more {extra}, lacking or different {lacking}")
    return problems


def state_of(folder: Path) -> State:
    """Modes, times of change and contents of all files, times and names of all folders."""
    out: State = {}
    for p in sorted(folder.rglob("*")):
        info = p.lstat()
        out[str(p)] = (info.st_mode, info.st_mtime_ns, p.read_bytes() if p.is_file() else b"")
    return out


def unchanged(stage: Stage, before: State) -> list[str]:
    after = state_of(stage.inputs)
    different = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    return [f"inputs changed: {different}"] if different else []


class Findings:
    """What did not hold, case after case; tests assert that there is nothing."""

    def __init__(self) -> None:
        self.cases = 0
        self.found: list[str] = []

    def add(self, case: object, problems: Sequence[str]) -> None:
        self.cases += 1
        self.found += [f"{case}: {p}" for p in problems]

    def none(self) -> None:
        shown = "\n".join(self.found[:12])
        assert not self.found, f"{len(self.found)} in {self.cases} cases:\n{shown}"
