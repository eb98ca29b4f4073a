"""A plan carried out part by part, so that nothing which is finished is done a second time.

While a part is written, the one before it is brought to disk and entered in the journal. A run
that finds the journal of an equal plan for unchanged inputs reads what it claims, and believes it
where every byte is as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG
from typing import Any

from llamatools._version import __version__
from llamatools.engine.checksums import RecordChecks
from llamatools.engine.claims import check_outcome, check_seen
from llamatools.engine.digest import file_digest
from llamatools.engine.execute import execute
from llamatools.engine.journal import Journal
from llamatools.engine.keeper import Keeper
from llamatools.engine.outcome import Begin, Outcome, Progress
from llamatools.engine.place import JOURNAL, OUTPUT, Place, place_of
from llamatools.engine.rename import sync_folder
from llamatools.engine.resources import Resources
from llamatools.engine.split import identity, inputs, parts, united
from llamatools.engine.words import say
from llamatools.errors import Kept, LlamatoolsError
from llamatools.expr.nodes import Witnessed
from llamatools.plan.plan import Plan
from llamatools.text import safe

_FORMAT = 1


@dataclass(frozen=True)
class Done:
    """What is known of a part that is finished."""

    part: Plan
    outcome: Outcome
    checks: list[list[Any]]

    @property
    def names(self) -> list[str]:
        return [f.name for f in self.part.files]

    def line(self) -> dict[str, object]:
        """As the journal has it."""
        files = [[f.name, f.layout.size, self.outcome.files[f.name]] for f in self.part.files]
        return {"files": files, "outcome": asdict(self.outcome), "checks": self.checks}


class Work:
    """What is to be done for a plan in a place, and what is done of it."""

    def __init__(self, plan: Plan, place: Place) -> None:
        """With what an earlier run left, if that was for the same plan and the same inputs."""
        self._plan = plan
        self._place = place
        self._parts = parts(plan)
        self._done: dict[int, Done] = {}
        if lines := place.journal.read():
            if lines[0] != self._head:
                words = _difference(lines[0], self._head)
                say(f"starting over: what an earlier run left was {words}")
            self._done = _claimed(plan, self._parts, lines, self._head, place.folder)
        self._resumed = False
        if self._done:
            self._note()
            place.keep([name for d in self._done.values() for name in d.names])
        else:
            place.clear()

    @cached_property
    def _head(self) -> dict[str, object]:
        return _head(self._plan)

    @property
    def bytes_there(self) -> int:
        """Bytes of files that need no more space."""
        return sum(f.layout.size for d in self._done.values() for f in d.part.files)

    @property
    def resumed(self) -> bool:
        """Whether files of an earlier run are in use."""
        return self._resumed

    def carry_out(self, limits: Resources, begin: Begin, *, more: bool = False) -> Outcome:
        """Do what is not done; returns what this run and those before it found out.

        `more`: there is much to do after the last part, which is worth a line of its own then.
        """
        plan, place, files = self._plan, self._place, inputs(self._plan)
        progress = begin(sum(s.value.nbytes for s in plan.work))
        if self._done:
            self._believe(progress)
        with Keeper(place.folder) as keeper:
            watched = keeper.watching(progress)
            for number, part in enumerate(self._parts):
                if number not in self._done:
                    place.check()
                    checks = RecordChecks()
                    outcome = execute(part, limits, place.folder, watched, checks, keeper.hold)
                    done = Done(part, outcome, checks.seen(files))
                    if number + 1 < len(self._parts) or more or self._resumed:
                        keeper.keep(partial(self._enter, number, done))
                    else:
                        keeper.keep(None)
                        self._done[number] = done
        every = [self._done[number] for number in range(len(self._parts))]
        outcome, checks = united([d.outcome for d in every], "part"), RecordChecks()
        for done in every:
            checks.add(done.checks, files)
        outcome.records_checked, outcome.records_partial = checks.finish()
        return outcome

    def _enter(self, number: int, done: Done) -> None:
        """Take note of a part whose files are on disk."""
        self._place.check()
        if self._done:
            self._place.journal.append(done.line())
        else:
            sync_folder(self._place.home.parent)  # what is not found again is of no use
            self._place.journal.begin([self._head, done.line()])
        self._done[number] = done
        self._note()

    def _believe(self, progress: Progress) -> None:
        """Read what the journal claims; what is not as it was written is to be done again."""
        for number, done in list(self._done.items()):
            wrong = [n for n in done.names if not _as_written(self._place.folder / n, done)]
            if wrong:
                say(f"{safe(wrong[0])}: is not as it was written, and is written again")
                del self._done[number]
                self._note()
                self._place.remove(done.names)
            else:
                progress(sum(s.value.nbytes for s in done.part.work))
        self._place.journal.begin([self._head, *(d.line() for d in self._done.values())])
        self._resumed = bool(self._done)
        if self._resumed:
            there = sum(len(d.names) for d in self._done.values())
            say(f"resuming: {there} of {len(self._plan.files)} files are there")

    def _note(self) -> None:
        names = frozenset(name for d in self._done.values() for name in d.names)
        kept = Kept(names, len(self._plan.files), self._place.home)
        self._place.kept = kept if names else None


def left_of(plan: Plan, out: Path) -> int:
    """How many files an earlier run for this output left for the same plan; none is read."""
    home = place_of(out)
    lines = Journal(home / JOURNAL).read()
    if not lines:
        return 0
    done = _claimed(plan, parts(plan), lines, _head(plan), home / OUTPUT)
    return sum(len(d.names) for d in done.values())


def _head(plan: Plan) -> dict[str, object]:
    """What two runs have in common of which one can go on where the other stopped."""
    libraries = ("numpy", "torch") if plan.multiplies else ()
    return {
        "journal": _FORMAT,
        "version": " ".join([__version__, *(f"{n} {version(n)}" for n in libraries)]),
        "inputs": [[f.name, f.size, *f.stamp] for f in inputs(plan)],
        "plan": identity(plan),
    }


def _difference(found: Any, head: dict[str, object]) -> str:
    words = {"version": "another version's", "inputs": "of inputs that have changed since"}
    for key, text in words.items():
        if not isinstance(found, dict) or found.get(key) != head[key]:
            return text
    return "of another command"


def _claimed(
    plan: Plan,
    known: Sequence[Plan],
    lines: Sequence[Any],
    head: dict[str, object],
    folder: Path,
) -> dict[int, Done]:
    """The parts that a journal calls finished, up to the first line that makes no sense; those
    whose files are there, by their sizes."""
    out: dict[int, Done] = {}
    if not lines or lines[0] != head or folder.is_symlink():
        return out
    files = inputs(plan)
    by_names = {tuple(f.name for f in part.files): n for n, part in enumerate(known)}
    for line in lines[1:]:
        try:
            number = by_names[tuple(name for name, *_ in line["files"])]
            done = Done(known[number], Outcome(**line["outcome"]), line["checks"])
            check_outcome(done.outcome)
            check_seen(done.checks, files)
            tensors = {s.name for s in done.part.work if not isinstance(s.value, Witnessed)}
            if done.line() != line or done.outcome.tensors.keys() != tensors:
                break
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            break
        if all(_is_there(folder / f.name, f.layout.size) for f in done.part.files):
            out[number] = done
    return out


def _is_there(path: Path, size: int) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    return S_ISREG(info.st_mode) and info.st_size == size


def _as_written(path: Path, done: Done) -> bool:
    try:
        return file_digest(path, lambda size: None)[1] == done.outcome.files[path.name]
    except LlamatoolsError:  # what cannot be read is not believed
        return False
