"""Threads: blocks pass in order, and the first failure stops everyone and is what is raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.tiny_files import Tiny, write_hf

import llamatools
from llamatools.engine.execute import execute
from llamatools.engine.outcome import Outcome
from llamatools.engine.resources import Resources
from llamatools.engine.turnstile import Stopped, Turnstile
from llamatools.errors import BadInput
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Read
from llamatools.plan.build import plan_fingerprint
from llamatools.plan.plan import Plan, Step


@dataclass(frozen=True)
class _Odd(Read):
    """A read that does something first."""

    before: Callable[[int], None] = lambda start: None

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.before(start)
        super().fill(out, start, ctx)


def _run(source: Path, before: Callable[[int], None], jobs: int) -> Outcome:
    """A fingerprint whose fifth tensor is odd."""
    with llamatools.open_checkpoint(source) as opened:
        plan = plan_fingerprint(opened)
        steps = list(plan.steps)
        value = steps[4].value
        assert isinstance(value, Read)
        steps[4] = Step(steps[4].name, _Odd(value.tensor, before))
        odd = Plan(plan.spec, tuple(steps))
        return execute(odd, Resources(jobs, 200, odd.peak(200)))


def _threads() -> int:
    return threading.active_count()


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_a_failure_stops_all_workers(jobs: int, hf: Path) -> None:
    def fail(start: int) -> None:
        raise BadInput("the fifth tensor is bad")

    before = _threads()
    with pytest.raises(BadInput, match="the fifth tensor is bad"):
        _run(hf, fail, jobs)
    assert _threads() == before


@pytest.mark.parametrize("jobs", [2, 4])
def test_an_input_error_is_raised_rather_than_what_followed(jobs: int, hf: Path) -> None:
    """Two blocks fail; the later one, with an error of ours, explains more."""
    barrier = threading.Barrier(2)

    def fail(start: int) -> None:
        barrier.wait(10)
        if start == 0:
            raise RuntimeError("who knows")
        raise BadInput("the input is to blame")

    with pytest.raises((BadInput, RuntimeError)) as caught:
        _run(hf, fail, jobs)
    assert isinstance(caught.value, BadInput)


def test_unforeseen_errors_are_raised_as_they_are(hf: Path) -> None:
    def fail(start: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run(hf, fail, 3)


def test_blocks_out_of_order_give_the_same_digests(tmp_path: Path) -> None:
    source = write_hf(Tiny(vocab=100), tmp_path / "in")
    plain = _run(source, lambda start: None, 1)
    slow = _run(source, lambda start: time.sleep(0.002 if start % 8 else 0.02), 4)
    assert slow.tensors == plain.tensors
    assert len(plain.tensors) == 21


def test_turns_come_in_order() -> None:
    turnstile, order = Turnstile(), []

    def pass_through(n: int) -> None:
        with turnstile.turn(n):
            order.append(n)

    threads = [threading.Thread(target=pass_through, args=(n,)) for n in (3, 1, 4, 0, 2)]
    for t in threads:
        t.start()
        time.sleep(0.005)
    for t in threads:
        t.join(10)
    assert order == [0, 1, 2, 3, 4]


def test_stopping_wakes_those_who_wait() -> None:
    turnstile, raised = Turnstile(), threading.Event()

    def wait() -> None:
        try:
            with turnstile.turn(7):
                pass
        except Stopped:
            raised.set()

    t = threading.Thread(target=wait)
    t.start()
    turnstile.stop()
    t.join(10)
    assert raised.is_set()
    with pytest.raises(Stopped), turnstile.turn(0):
        pass


def test_progress_adds_up_to_what_was_announced(hf: Path) -> None:
    seen: list[int] = []
    announced: list[int] = []

    def begin(total: int) -> Callable[[int], None]:
        announced.append(total)
        return seen.append

    llamatools.fingerprint(hf, begin=begin)
    assert sum(seen) == announced[0] > 0
