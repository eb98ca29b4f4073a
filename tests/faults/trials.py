"""Runs that end badly: killed, without power, with what they left damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress

from disk import Contents, after_all, crashes
from forked import COUNTS, Ran, run
from injected import CHANGES, Fault, Kill, Moment
from promises import Findings, after_fault, after_rerun, whole
from scenes import PLACE, Stage, contents
from sweeps import some, words_of

State = tuple[str, Contents]

# --- the power fails


def recorded(stage: Stage, first: Contents, force: bool, fault: Fault | None = None) -> Ran:
    """A run, and every byte that it wrote."""
    stage.put(first)
    return run(words_of(stage, force), stage.root, fault, keep=True)


def states(
    stage: Stage, first: Contents, ran: Ran, *, force: bool, findings: Findings
) -> list[State]:
    """All that a disk may hold after the power failed during a run; wholeness is looked at."""
    allowed = ["old", "new"] if force else ["absent", "new"]
    out = []
    for done, how, found in crashes(first, ran.calls, PLACE):
        name = f"power lost after call {done} ({_last(ran, done)}), {how}"
        findings.add(name, whole(stage, found, allowed))
        out.append((name, found))
    COUNTS.states += len(out)
    return out


def _last(ran: Ran, done: int) -> str:
    return str(ran.calls[done - 1]) if done else "none"


def rerun(stage: Stage, tried: Sequence[State], *, force: bool, findings: Findings) -> None:
    """The same command, on each of these disks."""
    for name, found in tried:
        stage.put(found)
        findings.add(name, after_rerun(stage, force=force))


def durable(stage: Stage, first: Contents, ran: Ran) -> list[str]:
    """Of a run that has ended well: its output is there, whatever is lost."""
    out: list[str] = []
    for how, found in after_all(first, ran.calls, PLACE).after_power_loss():
        out += [f"{how}: {p}" for p in whole(stage, found, ["new"])]
    return out


def claimed(found: Contents) -> set[str]:
    """The files that the journal calls finished, in lines that are whole."""
    out: set[str] = set()
    for name, data in found.items():
        if name.endswith("/journal"):
            for line in data.split(b"\n")[1:-1]:
                with suppress(ValueError):
                    out |= {file for file, *_ in json.loads(line)[1]["files"]}
    return out


def falsely_claimed(stage: Stage, found: Contents) -> set[str]:
    """Of these, those that are there and not as they are in the finished output."""
    wanted = {n.split("/")[-1]: d for n, d in stage.wanted.items()}
    files = {n.split("/")[-1]: d for n, d in found.items()}
    return {n for n in claimed(found) & files.keys() if files[n] != wanted[n]}


# --- kill -9


def _calls(stage: Stage, force: bool) -> list[str]:
    """The names of all calls that change something, of a run without faults."""
    stage.put(stage.old if force else {})
    ran = run(words_of(stage, force), stage.root)
    assert ran.code == 0, ran.err
    return [c.name for c in ran.calls if c.name in CHANGES and c.path.startswith(PLACE)]


def kills(stage: Stage, force: bool) -> list[Fault]:
    """One before and one after every call, and one within every write."""
    return [
        Fault(Kill(moment), CHANGES, n, below=PLACE)
        for n, name in enumerate(_calls(stage, force))
        for moment in Moment
        if moment is not Moment.WITHIN or name == "write"
    ]


def killed(stage: Stage, fault: Fault, force: bool) -> list[str]:
    ran = run(words_of(stage, force), stage.root, fault)
    if not ran.hit:
        return ["the process was not killed"]
    return after_fault(stage, ran, force=force, codes=(-9,))


def killed_everywhere(stage: Stage, *, force: bool, most: int | None) -> Findings:
    findings = Findings()
    for fault in some(kills(stage, force), most):
        stage.put(stage.old if force else {})
        problems = killed(stage, fault, force)
        findings.add(fault, problems + after_rerun(stage, force=force))
    return findings


# --- what a killed run left, damaged


def left_by_a_kill(stage: Stage) -> Contents:
    """What is there when a run was killed as it was about to publish: all that it can leave."""
    fault = Fault(Kill(Moment.BEFORE), ("rename",), _publishing(stage))
    stage.clear()
    ran = run(stage.words, stage.root, fault)
    assert ran.code == -9
    left = contents(stage.root / PLACE)
    assert any(n.endswith("/journal") for n in left), sorted(left)
    return left


def _publishing(stage: Stage) -> int:
    """The number of the rename that gives the output its name."""
    stage.clear()
    ran = run(stage.words, stage.root)
    renames = [c for c in ran.calls if c.name == "rename"]
    return next(i for i, c in enumerate(renames) if c.other.endswith("/" + stage.out.name))


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def _damages(left: Contents, *, every: bool, places: int) -> Iterator[tuple[str, Contents]]:
    """One bit of one file wrong; a file gone, cut or longer; a strange file among them."""
    chance = random.Random(7)
    for name, data in left.items():
        if name.endswith("/"):
            continue
        spots = list(range(len(data)))
        if not (every and name.endswith("/journal")):
            spots = sorted(chance.sample(spots, min(places, len(spots))))
        for at in spots:
            bit = chance.randrange(8)
            yield f"bit {bit} of byte {at} of {name}", left | {name: _flipped(data, at, bit)}
        yield f"{name} is gone", {n: d for n, d in left.items() if n != name}
        if data:
            yield f"{name} is cut", left | {name: data[: chance.randrange(len(data))]}
        yield f"{name} is empty", left | {name: b""}
        yield f"{name} is longer", left | {name: data + b"\0"}
        yield f"{name} twice", left | {name: data + data}
    folder = f"{next(iter(left)).split('/')[0]}/output/"
    yield "a strange file", left | {folder + "strange": b"x"}
    yield "a strange folder", left | {folder + "strange/file": b"x"}
    yield "everything is a journal", {n: left[_journal(left)] for n in left}


def _journal(left: Contents) -> str:
    return next(n for n in left if n.endswith("/journal"))


def damaged(stage: Stage, *, every: bool, places: int, most: int | None) -> Findings:
    findings = Findings()
    left = left_by_a_kill(stage)
    for name, found in some(list(_damages(left, every=every, places=places)), most):
        stage.put(found)
        findings.add(name, after_rerun(stage, force=False))
    return findings
