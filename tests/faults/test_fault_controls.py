"""An engine made worse in one respect is caught, each time by what is to catch it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from disk import after_all
from forked import Child, mutated, run
from injected import Fault, Meanwhile, Refuse
from promises import Findings, after_fault, names_the_file, whole
from scenes import PLACE, Stage, Staged, contents
from sweeps import some
from trials import (
    damaged,
    durable,
    falsely_claimed,
    killed_everywhere,
    left_by_a_kill,
    recorded,
    rerun,
    states,
)

from llamatools.engine import keeper, newfile, place, rename, work
from llamatools.errors import IOFailed

Mutation = Callable[[], object]


def _put(owner: object, name: str, worse: object) -> None:
    """In place of what the engine has under that name, which must be there."""
    assert hasattr(owner, name), name
    setattr(owner, name, worse)


# --- worse engines


def _nothing(*args: object, **options: object) -> None: ...


def _without_fsync_of_files() -> None:
    _put(newfile.NewFile, "finish", lambda self, **options: self.drop())


def _without_fsync_of_folders() -> None:
    for module in (rename, keeper, work):
        _put(module, "sync_folder", _nothing)


def _journal_first() -> None:
    """A line for files that are not on disk yet."""
    real = keeper.Keeper.keep

    def keep(self: keeper.Keeper, then: Callable[[], None] | None = None) -> None:
        if then is not None:
            then()
        real(self, _nothing)

    _put(keeper.Keeper, "keep", keep)


def _journal_believed() -> None:
    _put(work, "_as_written", lambda *args: True)


def _without_lock() -> None:
    _put(fcntl, "flock", _nothing)


def _place_left() -> None:
    _put(place.Place, "leave", _nothing)


def _fsync_again() -> None:
    """As programs do that take the second answer for the truth."""
    real = newfile.NewFile.finish

    def finish(self: newfile.NewFile, **options: bool) -> None:
        with suppress(OSError):
            os.fsync(self.fileno())
        real(self, **options)

    _put(newfile.NewFile, "finish", finish)


def _published_by_copying() -> None:
    def copied(new: Path, target: Path) -> None:
        target.mkdir()
        for file in sorted(new.iterdir()):
            shutil.copyfile(file, target / file.name)

    _put(rename, "place", copied)


def _replaced_in_place() -> None:
    """The old output goes before the new one comes."""

    def exchange(new: Path, target: Path) -> bool:
        shutil.rmtree(target)
        os.rename(new, target)  # noqa: PTH104
        new.mkdir()
        return True

    _put(rename, "exchange", exchange)


def _without_names() -> None:
    _put(newfile, "io_failed", lambda *args: IOFailed("something failed"))


def _errors_swallowed() -> None:
    real = newfile.NewFile.write

    def write(self: newfile.NewFile, *args: Any) -> None:
        with suppress(IOFailed):
            real(self, *args)

    _put(newfile.NewFile, "write", write)


# --- caught


def _power(stage: Stage, *, force: bool = False) -> Findings:
    findings, first = Findings(), stage.old if force else {}
    ran = recorded(stage, first, force)
    assert ran.code == 0, ran.err
    findings.add("exit code 0", durable(stage, first, ran))
    found = states(stage, first, ran, force=force, findings=findings)
    rerun(stage, some(found, 4), force=force, findings=findings)
    return findings


POWER: dict[str, tuple[Mutation, bool]] = {
    "no fsync of files": (_without_fsync_of_files, False),
    "no fsync of folders": (_without_fsync_of_folders, False),
    "published by copying": (_published_by_copying, False),
    "replaced in place": (_replaced_in_place, True),
}


@pytest.mark.parametrize("name", POWER)
def test_power_loss_catches(name: str, staged: Staged) -> None:
    mutation, force = POWER[name]
    stage = staged("meta to hf")
    with mutated(mutation):
        findings = _power(stage, force=force)
    assert any("the output is not" in f for f in findings.found), findings.found[:3]


def test_power_loss_catches_a_journal_that_comes_first(staged: Staged) -> None:
    stage = staged("meta to hf")
    with mutated(_journal_first):
        ran = recorded(stage, {}, force=False)
    found = states(stage, {}, ran, force=False, findings=Findings())
    false = [s for s in found if falsely_claimed(stage, s[1])]
    assert false
    # Whoever looks at the files does not believe it; who does not look, is wrong.
    trusting = Findings()
    with mutated(_journal_believed):
        rerun(stage, some(false, 8), force=False, findings=trusting)
    assert any("run again" in f for f in trusting.found)
    looking = Findings()
    rerun(stage, some(false, 8), force=False, findings=looking)
    looking.none()


def test_damage_catches_a_journal_that_is_believed(staged: Staged) -> None:
    with mutated(_journal_believed):
        findings = damaged(staged("meta to hf"), every=False, places=6, most=10)
    assert any("run again" in f for f in findings.found)


def test_kills_catch_a_place_that_is_left(staged: Staged) -> None:
    with mutated(_place_left):
        findings = killed_everywhere(staged("meta to hf"), force=False, most=3)
    assert any("run again: more" in f for f in findings.found)


def test_kills_catch_an_output_published_by_copying(staged: Staged) -> None:
    with mutated(_published_by_copying):
        findings = killed_everywhere(staged("meta to hf"), force=False, most=12)
    assert any("the output is not" in f for f in findings.found)


def test_a_second_fsync_is_not_trusted(staged: Staged) -> None:
    """The system says that all is well, and nothing is on disk."""
    stage = staged("meta to hf")
    fault = Fault(Refuse(errno.EIO), ("fsync",), 0, below=PLACE)
    for mutation, code in ((_fsync_again, 0), (_nothing, 4)):
        with mutated(mutation):
            ran = recorded(stage, {}, False, fault)
        assert (ran.code, len(ran.hit)) == (code, 1)
        lost = [p for _, f in after_all({}, ran.calls, PLACE).after_power_loss()
                for p in whole(stage, f, ["new"])]  # fmt: skip
        assert lost, "what was not written was called durable"


def test_refusals_catch_messages_without_names(staged: Staged) -> None:
    stage = staged("meta to hf")
    stage.clear()
    with mutated(_without_names):
        ran = run(stage.words, stage.root, Fault(Refuse(errno.EIO), ("write",), 3, below=PLACE))
    assert names_the_file(ran) != []


def test_refusals_catch_errors_that_are_swallowed(staged: Staged) -> None:
    stage = staged("hf to meta")
    stage.clear()
    fault = Fault(Refuse(errno.ENOSPC), ("write",), 9, below=PLACE)
    with mutated(_errors_swallowed):
        ran = run(stage.words, stage.root, fault)
    assert ran.code == 0 and after_fault(stage, ran, force=False) != []


def test_races_catch_a_lock_that_is_not_taken(staged: Staged) -> None:
    """Two at work on one place, which without faults end in exit codes 0 and 5."""
    stage = staged("meta to hf")
    slowly = Fault(Meanwhile(lambda: time.sleep(0.02), "slowly"), ("fsync",), 0, True, PLACE)
    wrong = 0
    with mutated(_without_lock):
        for _ in range(4):
            stage.clear()
            racing = [Child(stage.words, stage.root, slowly) for _ in range(3)]
            codes = sorted(r.end().code for r in racing)
            wrong += codes != [0, 5, 5] or contents(stage.root / PLACE) != stage.wanted
    assert wrong


def test_the_same_without_mutations(staged: Staged) -> None:
    """What the controls run finds nothing in the engine as it is."""
    stage = staged("meta to hf")
    assert left_by_a_kill(stage)
    _power(stage).none()
