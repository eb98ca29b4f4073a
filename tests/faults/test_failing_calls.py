"""Every system call on a file refused, once or from then on: an error names it, and no harm."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from forked import run
from injected import Effect, Fault, Refuse, Short
from promises import EXISTS, IO, Findings, after_fault, after_rerun, names_the_file
from scenes import INPUTS, PLACE, SCENES, Stage, Staged
from sweeps import counted, faults, some, words_of


def _refused(*codes: int) -> tuple[Effect, ...]:
    return tuple(Refuse(code) for code in codes)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
REFUSALS: dict[str, dict[str, tuple[Effect, ...]]] = {
    PLACE: {
        "open": _refused(errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOSPC),
        "write": _refused(*_FULL),
        "fsync": _refused(errno.EIO, errno.ENOSPC),
        "allocate": _refused(errno.ENOSPC, errno.EFBIG),
        "truncate": _refused(errno.EIO),
        "rename": _refused(errno.EIO, errno.EROFS, errno.ENOSPC),
        "exchange": _refused(errno.EIO, errno.EROFS),
        "mkdir": _refused(errno.EROFS, errno.ENOSPC, errno.EDQUOT),
        "unlink": _refused(errno.EIO, errno.EROFS),
        "rmdir": _refused(errno.EIO, errno.EROFS),
        "close": _refused(errno.EIO, errno.EDQUOT, errno.EINTR),
        "lock": _refused(errno.EIO, errno.ENOLCK),
        "look": _refused(errno.EIO, errno.ESTALE),
        "read": _refused(errno.EIO),
    },
    INPUTS: {
        "open": _refused(errno.EIO, errno.EMFILE, errno.EACCES),
        "read": _refused(errno.EIO, errno.ESTALE),
        "close": _refused(errno.EIO, errno.EINTR),
        "look": _refused(errno.EIO, errno.EACCES),
    },
}
SHORT = (
    Short(lambda n: max(n // 2, 1), "half"),
    Short(lambda n: 1, "one byte"),
    Short(lambda n: max(n - 1, 1), "all but one byte"),
)
NOTHING = Short(lambda n: 0, "nothing")
MAIN = ("meta to hf", "hf to meta")


def _problems(stage: Stage, fault: Fault, *, force: bool) -> list[str]:
    """Of one run that meets the fault, and of the same command once more."""
    stage.put(stage.old if force else {})
    ran = run(words_of(stage, force), stage.root, fault)
    if not ran.hit:
        return ["the fault was not met"]
    # What cannot be looked at may be taken for what is not there; it is in the way later.
    codes = (IO, EXISTS) if force and fault.kinds == ("look",) else (IO,)
    problems = after_fault(stage, ran, force=force, codes=codes) + names_the_file(ran)
    return problems + after_rerun(stage, force=force)


def _sweep(
    stage: Stage,
    *,
    force: bool,
    most: int | None,
    inputs: int | None,
    in_all: int | None = None,
) -> Findings:
    """So many calls of every kind, on the output and on inputs; of all these so many in all."""
    findings, counts = Findings(), counted(stage, force)
    cases: list[Fault] = []
    for below, kinds in REFUSALS.items():
        limit = most if below == PLACE else inputs
        for kind, effects in kinds.items():
            cases += faults(counts, (kind,), effects, below, limit)
    for fault in some(cases, in_all):
        findings.add(fault, _problems(stage, fault, force=force))
    return findings


@pytest.mark.parametrize("scene", MAIN)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_every_kind_of_call_refused(scene: str, force: bool, staged: Staged) -> None:
    findings = _sweep(staged(scene), force=force, most=1 if force else 2, inputs=1)
    findings.none()
    assert findings.cases >= (15 if force else 22)


@pytest.mark.parametrize("scene", [s for s in SCENES if s not in MAIN])
def test_other_commands_refused(scene: str, staged: Staged) -> None:
    findings = _sweep(staged(scene), force=False, most=2, inputs=2, in_all=3)
    findings.none()
    assert findings.cases == 3


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_every_call_refused(scene: str, force: bool, staged: Staged) -> None:
    findings = _sweep(staged(scene), force=force, most=None, inputs=12)
    findings.none()
    assert findings.cases >= 80


def _short(stage: Stage, effects: Sequence[Effect], *, most: int | None) -> Findings:
    """A run that gets less than it asked for, and is none the worse."""
    findings, counts = Findings(), counted(stage, force=False)
    for below, kind in ((PLACE, "write"), (INPUTS, "read"), (PLACE, "read")):
        for fault in faults(counts, (kind,), effects, below, most):
            stage.clear()
            ran = run(stage.words, stage.root, fault)
            problems = after_fault(stage, ran, force=False, codes=())
            findings.add(fault, problems if ran.hit else ["the fault was not met"])
    return findings


@pytest.mark.parametrize("scene", SCENES)
def test_short_reads_and_writes_change_nothing(scene: str, staged: Staged) -> None:
    findings = _short(staged(scene), SHORT, most=2 if scene in MAIN else 1)
    findings.none()
    assert findings.cases >= 2


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_every_read_and_write_short(scene: str, staged: Staged) -> None:
    _short(staged(scene), SHORT, most=None).none()


@pytest.mark.parametrize("scene", MAIN)
def test_writes_that_take_nothing_end(scene: str, staged: Staged) -> None:
    """No file system does that to a regular file; an endless loop would be the worst answer."""
    stage = staged(scene)
    stage.clear()
    ran = run(stage.words, stage.root, Fault(NOTHING, ("write",), 3, stays=True, below=PLACE))
    assert ran.hit
    assert after_fault(stage, ran, force=False) == []
    assert after_rerun(stage, force=False) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL], ids=errno.errorcode.get)
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_renames_that_the_file_system_does_not_know(code: int, force: bool, staged: Staged) -> None:
    """Neither renameat2's flags; a plain rename does, and gives the same."""
    stage = staged("meta to hf")
    stage.put(stage.old if force else {})
    kinds = ("exchange",) if force else ("rename",)
    fault = Fault(Refuse(code), kinds, 0, below=f"{PLACE}/{stage.out.name}")
    ran = run(words_of(stage, force), stage.root, fault)
    assert len(ran.hit) == 1
    assert ran.code == 0, ran.err
    assert after_fault(stage, ran, force=force) == []


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_a_rename_that_is_interrupted(force: bool, staged: Staged) -> None:
    stage = staged("meta to hf")
    stage.put(stage.old if force else {})
    kinds, below = ("rename", "exchange"), f"{PLACE}/{stage.out.name}"
    ran = run(words_of(stage, force), stage.root, Fault(Refuse(errno.EINTR), kinds, below=below))
    assert len(ran.hit) == 1
    assert ran.code == 0, ran.err
    assert after_fault(stage, ran, force=force) == []
