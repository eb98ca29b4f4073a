"""kill -9 before, within and after every call; twice; then with bits of what was left flipped."""

from __future__ import annotations

import errno

import pytest
from disk import Contents
from forked import mutated, run
from injected import CHANGES, Fault, Kill, Moment
from promises import Findings, after_fault, after_rerun, whole
from scenes import PLACE, SCENES, Stage, Staged, contents
from sweeps import some
from trials import claimed, damaged, killed, killed_everywhere, kills, left_by_a_kill

from llamatools.engine import rename

MAIN = ("meta to hf", "hf to meta")
KEEPING = ("meta to hf", "verified", "merge-lora", "apply-delta")
"""Commands that go on where a run was cut short."""


@pytest.mark.parametrize("scene", MAIN)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_killed(scene: str, force: bool, staged: Staged) -> None:
    findings = killed_everywhere(staged(scene), force=force, most=8)
    findings.none()
    assert findings.cases == 8


@pytest.mark.parametrize("scene", [s for s in SCENES if s not in MAIN])
def test_other_commands_killed(scene: str, staged: Staged) -> None:
    findings = killed_everywhere(staged(scene), force=False, most=2)
    findings.none()
    assert findings.cases == 2


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_killed_almost_everywhere(scene: str, force: bool, staged: Staged) -> None:
    findings = killed_everywhere(staged(scene), force=force, most=120)
    findings.none()
    assert findings.cases >= 20


def _twice(stage: Stage, *, first: int, second: int) -> Findings:
    findings = Findings()
    for one in some(kills(stage, False), first):
        stage.clear()
        findings.add(one, killed(stage, one, False))
        left = contents(stage.root / PLACE)
        if stage.out.exists():
            continue
        again = run(stage.words, stage.root)
        calls = sum(c.name in CHANGES and c.path.startswith(PLACE) for c in again.calls)
        for n in some(range(calls), second):
            two = Fault(Kill(list(Moment)[n % 3]), CHANGES, n, below=PLACE)
            stage.put(left)
            problems = killed(stage, two, False) + after_rerun(stage, force=False)
            findings.add(f"{one}, then {two}", problems)
    return findings


@pytest.mark.parametrize("scene", MAIN)
def test_killed_twice(scene: str, staged: Staged) -> None:
    findings = _twice(staged(scene), first=2, second=2)
    findings.none()
    assert findings.cases >= 4


@pytest.mark.slow
@pytest.mark.parametrize("scene", KEEPING)
def test_killed_twice_in_many_ways(scene: str, staged: Staged) -> None:
    findings = _twice(staged(scene), first=20, second=20)
    findings.none()
    assert findings.cases >= 200


# --- where two names cannot be exchanged


def _no_exchange() -> None:
    rename._renameat2 = lambda old, new, flag: errno.ENOSYS


def _aside(stage: Stage, found: Contents) -> list[str]:
    """The former output may be without its name for a moment; it is whole all the same."""
    moved = f".{stage.out.name}.llamatools/old/"
    if any(n.startswith(f"{stage.out.name}/") for n in found):
        return whole(stage, found, ["old", "new"])
    there = {n.replace(moved, f"{stage.out.name}/"): d for n, d in found.items()
             if n.startswith(moved)}  # fmt: skip
    return [] if there == stage.old else ["neither the old output nor the new one is there"]


@pytest.mark.parametrize("scene", ["meta to hf", "tokenizer convert"])
def test_killed_while_replacing_in_two_steps(scene: str, staged: Staged) -> None:
    """The next run gives the former output its name back, whether it then replaces it or not."""
    stage, findings, aside = staged(scene), Findings(), 0
    with mutated(_no_exchange):
        last = [k for k in kills(stage, force=True) if k.effect != Kill(Moment.WITHIN)][-40:]
        for n, fault in enumerate(some(last, 8)):
            stage.put(stage.old)
            ran = run([*stage.words, "--force"], stage.root, fault)
            assert ran.hit
            left = contents(stage.root / PLACE)
            problems = _aside(stage, left)
            if not stage.out.exists():
                aside += 1
                again = run(stage.words, stage.root)
                problems += whole(stage, contents(stage.root / PLACE), ["old"])
                problems += [] if again.code == 5 else [f"without force: {again.code}"]
                stage.put(left)
            findings.add(f"{n}: {fault}", problems + after_rerun(stage, force=True))
    findings.none()
    assert aside


@pytest.mark.parametrize("jobs", [2, 4])
def test_killed_with_several_workers(jobs: int, staged: Staged) -> None:
    """Calls come in another order every time; where the run ends before, nothing was injected."""
    stage, findings, hits = staged("meta to hf"), Findings(), 0
    words = [str(jobs) if before == "--jobs" else w
             for before, w in zip(["", *stage.words], stage.words, strict=False)]  # fmt: skip
    for n in range(5, 60, 11):
        stage.clear()
        ran = run(words, stage.root, Fault(Kill(Moment.WITHIN), CHANGES, n, below=PLACE))
        hits += len(ran.hit)
        problems = after_fault(stage, ran, force=False, codes=(-9,))
        findings.add(n, problems + after_rerun(stage, force=False))
    findings.none()
    assert hits >= 4


# --- what a killed run left, damaged


@pytest.mark.parametrize("scene", KEEPING[:2])
def test_what_was_left_is_damaged(scene: str, staged: Staged) -> None:
    findings = damaged(staged(scene), every=False, places=6, most=18)
    findings.none()
    assert findings.cases == 18


@pytest.mark.slow
@pytest.mark.parametrize("scene", KEEPING)
def test_every_byte_of_the_journal_is_damaged(scene: str, staged: Staged) -> None:
    findings = damaged(staged(scene), every=True, places=60, most=None)
    findings.none()
    assert findings.cases >= 500


@pytest.mark.parametrize("scene", KEEPING)
def test_a_run_goes_on_where_it_was_killed(scene: str, staged: Staged) -> None:
    """What is finished is not written again; or else none of this would test anything."""
    stage = staged(scene)
    left = left_by_a_kill(stage)
    finished = claimed(left)
    assert finished
    stage.put(left)
    ran = run([w for w in stage.words if w != "-q"], stage.root)
    assert ran.code == 0, ran.err
    assert f"resuming: {len(finished)} of " in ran.err
    written = {c.path.split("/")[-1] for c in ran.calls if c.name == "write"}
    assert written and not written & finished
    assert contents(stage.root / PLACE) == stage.wanted
