"""Other pythons, named by environment variables, that hold other versions of transformers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def named_by(variable: str) -> str:
    """The python that an environment variable names; skips the test where it names none."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} is not set")
    return python


def run_jobs(python: str, script: str, jobs: Sequence[dict[str, Any]], scratch: Path) -> str:
    """Run a script of this folder on a list of jobs; returns the last line it prints."""
    work = scratch / "jobs.json"
    work.write_text(json.dumps(jobs))
    environment = {"HF_HUB_OFFLINE": "1", "PATH": os.environ.get("PATH", "")}
    done = subprocess.run(
        [python, str(HERE / script), str(work)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]
