"""The power fails after any call: what was not synced is gone, in part or reordered, or all there.

The output is absent or whole whatever was lost, it is there once the command has said so, and the
same command, run again on what is left, gives the same bytes.
"""

from __future__ import annotations

import errno

import pytest
from disk import after_all
from forked import run
from injected import Fault, Refuse
from promises import Findings, whole
from scenes import PLACE, SCENES, Stage, Staged, contents
from sweeps import some
from trials import claimed, durable, falsely_claimed, recorded, rerun, states

MAIN = ("meta to hf", "hf to meta")
OTHERS = {
    "merge-lora": False,
    "make-delta": False,
    "tokenizer convert": True,
    "golden create": False,
    "extract-lora": False,
}
"""Other commands, and whether by force."""


def _check(stage: Stage, *, force: bool, most: int | None, least: int) -> None:
    findings = Findings()
    first = stage.old if force else {}
    ran = recorded(stage, first, force)
    assert ran.code == 0, ran.err
    findings.add("exit code 0", durable(stage, first, ran))
    found = states(stage, first, ran, force=force, findings=findings)
    rerun(stage, some(found, most), force=force, findings=findings)
    findings.none()
    assert len(found) >= least, f"only {len(found)} different disks"


@pytest.mark.parametrize("scene", SCENES)
def test_replaying_what_was_seen_gives_what_is_there(scene: str, staged: Staged) -> None:
    """No write, rename or removal passes the harness by."""
    stage = staged(scene)
    for first, force in (({}, False), (stage.old, True)):
        ran = recorded(stage, first, force)
        assert ran.code == 0, ran.err
        assert after_all(first, ran.calls, PLACE).now() == contents(stage.root / PLACE)
        assert {"write", "fsync", "rename"} <= {c.name for c in ran.calls} | (
            {"rename"} if force else set()
        )


@pytest.mark.parametrize("scene", MAIN)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_power_is_lost(scene: str, force: bool, staged: Staged) -> None:
    _check(staged(scene), force=force, most=8, least=60)


@pytest.mark.parametrize("scene", OTHERS)
def test_power_is_lost_in_other_commands(scene: str, staged: Staged) -> None:
    _check(staged(scene), force=OTHERS[scene], most=3, least=10)


def test_power_is_lost_while_a_file_is_replaced(staged: Staged) -> None:
    _check(staged("golden create"), force=True, most=3, least=10)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_power_is_lost_at_many_calls(scene: str, force: bool, staged: Staged) -> None:
    _check(staged(scene), force=force, most=120, least=10)


@pytest.mark.parametrize("scene", ["meta to hf", "verified", "merge-lora"])
def test_the_journal_claims_what_is_on_disk(scene: str, staged: Staged) -> None:
    """Whatever was lost, a file of which a line tells is whole, or is not there at all."""
    stage, findings = staged(scene), Findings()
    ran = recorded(stage, {}, force=False)
    claims = 0
    for name, found in states(stage, {}, ran, force=False, findings=findings):
        claims += bool(claimed(found))
        false = sorted(falsely_claimed(stage, found))
        findings.add(name, [f"claimed and not whole: {false}"] if false else [])
    findings.none()
    assert claims >= 5


def _twice(stage: Stage, *, first: int | None, second: int) -> Findings:
    """The power fails, and fails again while the run is resumed."""
    findings = Findings()
    ran = recorded(stage, {}, force=False)
    found = states(stage, {}, ran, force=False, findings=findings)
    begun = [s for s in found if not any(n.startswith("out/") for n in s[1])]
    for name, left in some(begun, first):
        again = recorded(stage, left, force=False)
        if again.code != 0:
            findings.add(name, [f"run again: exit code {again.code}: {again.err[-300:]}"])
            continue
        findings.add(f"{name}; exit code 0", durable(stage, left, again))
        later = states(stage, left, again, force=False, findings=findings)
        tried = [(f"{name}; then {n}", c) for n, c in some(later, second)]
        rerun(stage, tried, force=False, findings=findings)
    return findings


@pytest.mark.parametrize("scene", MAIN)
def test_power_is_lost_twice(scene: str, staged: Staged) -> None:
    findings = _twice(staged(scene), first=3, second=2)
    findings.none()
    assert findings.cases >= 300


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_power_is_lost_twice_at_many_calls(scene: str, staged: Staged) -> None:
    _twice(staged(scene), first=12, second=8).none()


def _after_a_failed_fsync(stage: Stage, most: int | None) -> Findings:
    """The system has given up what it could not write, and says nothing of it the next time."""
    findings = Findings()
    clean = recorded(stage, {}, force=False)
    syncs = sum(c.name == "fsync" and c.path.startswith(PLACE) for c in clean.calls)
    assert syncs >= 5
    for n in some(range(syncs), most):
        fault = Fault(Refuse(errno.EIO), ("fsync",), n, below=PLACE)
        ran = recorded(stage, {}, False, fault)
        assert len(ran.hit) == 1
        found = states(stage, {}, ran, force=False, findings=findings)
        if ran.code == 0:
            findings.add(fault, durable(stage, {}, ran))
        rerun(stage, [(f"{fault}; {n}", c) for n, c in found[-1:]], force=False, findings=findings)
        # What memory held is gone now; the run that resumes must not have taken it for written.
        left = after_all({}, ran.calls, PLACE)
        stage.put(left.now())
        again = run(stage.words, stage.root, keep=True)
        for call in again.calls:
            left.see(call)
        if again.code == 0:
            for how, last in left.after_power_loss():
                findings.add(f"{fault}, resumed; {how}", whole(stage, last, ["new"]))
    return findings


@pytest.mark.parametrize("scene", MAIN)
def test_power_is_lost_after_an_fsync_failed(scene: str, staged: Staged) -> None:
    findings = _after_a_failed_fsync(staged(scene), most=5)
    findings.none()
    assert findings.cases >= 200


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_power_is_lost_after_any_fsync_failed(scene: str, staged: Staged) -> None:
    _after_a_failed_fsync(staged(scene), most=None).none()
