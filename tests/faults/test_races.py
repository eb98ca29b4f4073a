"""Several processes want one output: one makes it, the others are told so, and nothing is mixed."""

from __future__ import annotations

import random
import time

import pytest
from forked import Child, Ran
from injected import CHANGES, Fault, Kill, Meanwhile, Moment
from promises import EXISTS, after_rerun, whole
from scenes import PLACE, Stage, Staged, contents
from support.calls import spawn
from sweeps import words_of

MAIN = ("meta to hf", "hf to meta")
SLOWLY = Fault(Meanwhile(lambda: time.sleep(0.01), "slowly"), ("fsync",), 0, True, PLACE)
"""So that the others come while one is at work."""


def _race(stage: Stage, *, force: bool, killed: int | None = None, late: float = 0.0) -> list[Ran]:
    """Four processes; one of them may be killed by one of its calls, or all but one come late."""
    stage.put(stage.old if force else {})
    kill = Fault(Kill(Moment.BEFORE), CHANGES, killed or 0, below=PLACE)
    racing = []
    for n in range(4):
        fault = kill if n == 0 and killed is not None else SLOWLY
        wait = late * n
        racing.append(
            Child(words_of(stage, force), stage.root, fault, prepare=lambda w=wait: time.sleep(w))  # type: ignore[misc]
        )
    return [r.end() for r in racing]


def _sound(done: list[Ran]) -> None:
    for ran in done:
        assert "Traceback" not in ran.err and "defect" not in ran.err, ran.err
        if ran.code == EXISTS:
            assert "another run is writing" in ran.err or "exists already" in ran.err


@pytest.mark.parametrize("scene", MAIN)
@pytest.mark.parametrize("late", [0.0, 0.02])
def test_one_of_four_makes_it(scene: str, late: float, staged: Staged) -> None:
    stage = staged(scene)
    for _ in range(2):
        done = _race(stage, force=False, late=late)
        _sound(done)
        assert sorted(r.code for r in done) == [0, EXISTS, EXISTS, EXISTS], [r.err for r in done]
        assert contents(stage.root / PLACE) == stage.wanted


@pytest.mark.parametrize("scene", [*MAIN, "golden create"])
def test_four_replace_it(scene: str, staged: Staged) -> None:
    """One after the other, or not at all; never two at once."""
    stage = staged(scene)
    for late in (0.0, 0.02):
        done = _race(stage, force=True, late=late)
        _sound(done)
        codes = {r.code for r in done}
        assert 0 in codes and codes <= {0, EXISTS}, [r.err for r in done]
        assert contents(stage.root / PLACE) == stage.wanted


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_one_of_four_is_killed(force: bool, staged: Staged) -> None:
    stage, chance = staged("meta to hf"), random.Random(5)
    for _ in range(2):
        done = _race(stage, force=force, killed=chance.randrange(60), late=0.01)
        _sound(done)
        assert {r.code for r in done} <= {0, EXISTS, -9}
        allowed = ["old", "new"] if force else ["absent", "new"]
        assert whole(stage, contents(stage.root / PLACE), allowed) == []
        assert after_rerun(stage, force=force) == []


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_one_of_four_is_killed_anywhere(force: bool, staged: Staged) -> None:
    stage, chance = staged("meta to hf"), random.Random(6)
    for n in range(90):
        done = _race(stage, force=force, killed=n, late=chance.random() / 30)
        _sound(done)
        assert {r.code for r in done} <= {0, EXISTS, -9}
        assert after_rerun(stage, force=force) == []


def test_four_commands(staged: Staged) -> None:
    """As shells start them."""
    stage = staged("hf to meta")
    racing = [spawn(*stage.words) for _ in range(4)]
    errors = [p.communicate(timeout=120)[1].decode() for p in racing]
    assert sorted(p.returncode for p in racing) == [0, EXISTS, EXISTS, EXISTS], errors
    assert contents(stage.root / PLACE) == stage.wanted
