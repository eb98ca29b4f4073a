"""Real processes on hostile files: five seconds, and 300 MB of memory, are enough to say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import CASES
from heavy import HEAVY, SOUND, build
from kit import unchanged
from support.calls import Called
from test_bad import judge

SECONDS = 5.0
BYTES = 300_000_000

# The high-water mark of /proc is that of the program itself; the one of getrusage starts with
# that of the process which forked.
_MEASURED = """
import atexit, json, os, resource, sys
report = int(sys.argv[1])
def tell():
    status = open("/proc/self/status").read()
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    os.write(report, json.dumps([peak, used.ru_utime + used.ru_stime]).encode())
atexit.register(tell)
sys.argv = ["llamatools", *sys.argv[2:]]
from llamatools.cli.start import run
run()
"""


def measured(*arguments: object) -> Called:
    """`llamatools ARGUMENTS` as a process, held to both limits. Seconds are the processor's."""
    read, write = os.pipe()
    command = [sys.executable, "-c", _MEASURED, str(write), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, pass_fds=(write,))
    finally:
        os.close(write)
    with os.fdopen(read) as report:
        peak, seconds = json.loads(report.read())
    assert peak < BYTES, f"{peak / 1e6:.0f} MB"
    assert seconds < SECONDS
    return Called(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("name", HEAVY)
def test_the_most_that_is_let_through(name: str, tmp_path: Path) -> None:
    source = build(name, tmp_path / "in")
    with unchanged(tmp_path):
        done = measured("inspect", source)
    assert done.code == (0 if name in SOUND else 3), done.err
    assert "Traceback" not in done.err
    assert len(done.err) < 20_000


SOME = sorted(CASES)[::60]


@pytest.mark.parametrize("name", SOME)
def test_refused_by_a_process(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    source = case.make(tmp_path / "in") or tmp_path / "in"
    with unchanged(tmp_path):
        judge(case, measured("convert", source, tmp_path / "out", "--to", case.to, *case.more))
