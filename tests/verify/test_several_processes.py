"""Under torchrun the first process judges and reports, the others compute along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sharp import Sharp, write
from support.calls import call

SMALL = Sharp("small", layers=3, context=128, scaling=None)


def _torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "llamatools", *map(str, words), "--device", "cpu", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def _created(model: Path, out: Path) -> None:
    """By one process."""
    words = ("golden", "create", model, "-o", out, "--device", "cpu", "--threads", 1, "-q")
    assert call(*words).code == 0


def test_two_processes_are_one(tmp_path: Path) -> None:
    model, golden = write(SMALL, tmp_path / "m"), tmp_path / "g.safetensors"
    _created(model, golden)
    page = tmp_path / "r.html"
    words = ("verify", model, "--golden", golden, "--gate", "exact", "--report", page)
    done = _torchrun(*words, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["holds"] and report["environment"]["runs"][0]["processes"] == 2
    assert "✓ holds" in page.read_text()


@pytest.mark.slow
def test_a_golden_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    model, golden = write(SMALL, tmp_path / "m"), tmp_path / "g.safetensors"
    _created(model, golden)
    made = _torchrun("golden", "create", model, "-o", tmp_path / "two", "--json")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "two").read_bytes() == golden.read_bytes()


@pytest.mark.slow
def test_a_failed_verdict_fails_the_run(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "m")
    other = write(SMALL, tmp_path / "o", lambda tensors, config: config.update(rope_theta=10000.0))
    done = _torchrun("verify", model, "--against", other, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["fault"]["point"] == "layer 0 attention"
