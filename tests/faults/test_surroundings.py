"""Full disks, limits of the system, signals."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from apart import apart
from forked import run
from injected import CHANGES, Fault, Meanwhile, Send
from promises import Findings, after_fault, after_rerun, whole
from scenes import PLACE, SCENES, Stage, Staged, contents
from support.calls import spawn
from sweeps import counted, some

MAIN = ("meta to hf", "hf to meta")


# --- full disks


def _fill(folder: Path, leave: int) -> None:
    """A file that takes all space but so many bytes."""
    free = os.statvfs(folder)
    size = free.f_bavail * free.f_frsize - leave
    with (folder / "ballast").open("wb") as f, suppress(OSError):
        os.posix_fallocate(f.fileno(), 0, max(size, 1))


def _on_a_full_disk(stage: Stage, most: int) -> Findings:
    """The disk gets full before one of the calls, up to a few pages that are left."""
    findings = Findings()
    total = sum(n for (where, kind), n in counted(stage, False).items()
                if where == PLACE and kind in CHANGES)  # fmt: skip
    for i, n in enumerate(some(range(total - 4), most)):
        leave = (i % 4) * 4096
        full = Meanwhile(lambda left=leave: _fill(stage.root, left), f"{leave} bytes are left")  # type: ignore[misc]
        fault = Fault(full, CHANGES, n, below=PLACE)
        stage.clear()
        ran = run(stage.words, stage.root, fault)
        problems = after_fault(stage, ran, force=False)
        if ran.code and "No space left" not in ran.err and "are free" not in ran.err:
            problems.append(f"not said why: {ran.err}")
        (stage.root / "ballast").unlink()
        findings.add(fault, problems + after_rerun(stage, force=False))
    return findings


@pytest.mark.parametrize("scene", MAIN)
def test_a_disk_gets_full(scene: str, staged: Staged, tmp_path: Path) -> None:
    stage = staged(scene)

    def tried(root: Path) -> tuple[int, list[str]]:
        here = Stage(stage.scene, root)
        shutil.copytree(stage.inputs, here.inputs)
        here.__dict__["wanted"] = stage.wanted
        here.__dict__["words"] = [w.replace(str(stage.root), str(root)) for w in stage.words]
        findings = _on_a_full_disk(here, 6)
        return findings.cases, findings.found

    cases, found = apart(tried, tmp_path, "size=8m")
    assert found == []
    assert cases == 6


def test_a_disk_too_small(staged: Staged, tmp_path: Path) -> None:
    """It is told before a byte is written."""
    stage = staged("meta to hf")

    def tried(root: Path) -> tuple[int, str, list[str]]:
        words = [str(root / "out") if w == str(stage.out) else w for w in stage.words]
        ran = run(words, root)
        return ran.code, ran.err, sorted(contents(root))

    code, err, left = apart(tried, tmp_path, "size=64k")
    assert code == 4
    assert "are needed" in err and "are free" in err
    assert left == []


# --- limits


@pytest.mark.parametrize("scene", [*MAIN, "golden create", "tokenizer convert"])
def test_files_may_not_be_so_large(scene: str, staged: Staged) -> None:
    stage, findings = staged(scene), Findings()
    largest = max(map(len, stage.wanted.values()))
    for limit in (0, 100, largest - 1):
        stage.clear()
        ran = run(
            stage.words,
            stage.root,
            prepare=lambda n=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)),  # type: ignore[misc]
        )
        problems = after_fault(stage, ran, force=False)
        if ran.code != 4 or "File too large" not in ran.err:
            problems.append(f"exit code {ran.code}: {ran.err}")
        findings.add(f"at most {limit} bytes", problems + after_rerun(stage, force=False))
    findings.none()


@pytest.mark.parametrize("scene", [*MAIN, "golden create"])
def test_few_files_may_be_open(scene: str, staged: Staged) -> None:
    stage, findings = staged(scene), Findings()
    failed = 0
    for more in range(0, 9, 3):

        def limit(more: int = more) -> None:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, free + more))

        stage.clear()
        ran = run(stage.words, stage.root, prepare=limit)
        failed += ran.code != 0
        problems = after_fault(stage, ran, force=False)
        if ran.code and "Too many open files" not in ran.err:
            problems.append(f"not said why: {ran.err}")
        findings.add(f"{more} more files", problems + after_rerun(stage, force=False))
    findings.none()
    assert failed >= 1


def _become_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to become")
def test_a_parent_that_others_own(tmp_path: Path) -> None:
    """As somebody who may read the input, and may not write beside it."""
    root = Path(tempfile.mkdtemp(prefix="llamatools-test-"))
    try:
        root.chmod(0o755)
        stage = Stage(SCENES["meta to hf"], root)
        assert stage.wanted
        ran = run(stage.words, root, prepare=_become_nobody)
        assert ran.code == 4, ran.err
        assert "Permission denied" in ran.err
        assert contents(root / PLACE) == {}
    finally:
        shutil.rmtree(root)


# --- signals


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stopped(stage: Stage, most: int | None) -> Findings:
    findings, counts = Findings(), counted(stage, False)
    total = sum(n for (where, kind), n in counts.items() if where == PLACE and kind in CHANGES)
    for i, n in enumerate(some(range(total), most)):
        number = SIGNALS[i % 3]
        fault = Fault(Send(number), CHANGES, n, below=PLACE)
        stage.clear()
        ran = run(stage.words, stage.root, fault)
        problems = after_fault(stage, ran, force=False, codes=(128 + number,))
        if ran.code and "stopped; " not in ran.err:
            problems.append(f"not said: {ran.err}")
        if ran.code and "nothing was left" in ran.err and any((stage.root / PLACE).iterdir()):
            problems.append(f"something was left: {sorted(contents(stage.root / PLACE))}")
        findings.add(fault, problems + after_rerun(stage, force=False))
    return findings


@pytest.mark.parametrize("scene", MAIN)
def test_stopped_by_signals(scene: str, staged: Staged) -> None:
    findings = _stopped(staged(scene), 6)
    findings.none()
    assert findings.cases == 6


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_stopped_by_signals_everywhere(scene: str, staged: Staged) -> None:
    _stopped(staged(scene), None).none()


def _stop_at_random(stage: Stage, rounds: int, seed: int) -> Findings:
    """Real processes, with the time that modules take to load."""
    findings, chance = Findings(), random.Random(seed)
    for i in range(rounds):
        number = (*SIGNALS, signal.SIGKILL)[i % 4]
        stage.clear()
        process = spawn(*stage.words)
        time.sleep(chance.random() * 1.0)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        # Before our handlers are in place, the signal itself ends the process.
        allowed = (0, -number, 128 + number)
        problems = whole(stage, contents(stage.root / PLACE), ["absent", "new"])
        if process.returncode not in allowed or b"Traceback" in err:
            problems.append(f"exit code {process.returncode}: {err.decode()}")
        findings.add(f"{number} in round {i}", problems + after_rerun(stage, force=False))
    return findings


def test_stopped_at_random_moments(staged: Staged) -> None:
    _stop_at_random(staged("meta to hf"), 4, 1).none()


@pytest.mark.slow
def test_stopped_at_many_random_moments(staged: Staged) -> None:
    _stop_at_random(staged("meta to hf"), 60, 2).none()
