"""Commands started with closed or full streams, and with names that the locale does not have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import INPUTS, PLACE, Staged, contents

STREAMS = {
    "no stdout": ">&-",
    "no stderr": "2>&-",
    "nothing at all": "<&- >&- 2>&-",
    "a full stdout": ">/dev/full",
    "both full": ">/dev/full 2>/dev/full",
}


@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS)
def test_streams_that_take_nothing(streams: str, staged: Staged) -> None:
    """No message gets into a file that happened to get the number of a closed stream."""
    stage = staged("hf to meta")
    words = [w for w in stage.words if w != "-q"]
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "llamatools", *words]
    done = subprocess.run(shell, capture_output=True)
    assert done.returncode in (0, 4), done
    assert b"Traceback" not in done.stderr
    assert contents(stage.root / PLACE) == stage.wanted


@pytest.mark.parametrize("name", ["größe ☃", "\udcff\udcfe"], ids=["unicode", "bytes"])
def test_names_that_the_locale_does_not_have(name: str, staged: Staged, tmp_path: Path) -> None:
    stage = staged("hf to meta")
    (tmp_path / name).mkdir()
    shutil.copytree(stage.inputs, tmp_path / name / INPUTS)
    out = tmp_path / name / f"{name} out"
    known = {str(stage.out): out}
    words = [known.get(w, w.replace(str(stage.inputs), str(tmp_path / name / INPUTS)))
             for w in stage.words]  # fmt: skip
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = subprocess.run(
        [os.fsencode(w) for w in (sys.executable, "-m", "llamatools", *words)],
        capture_output=True,
        env={**os.environ, **plain},
    )
    assert process.returncode == 0, process.stderr
    found = {f"out/{p.name}": p.read_bytes() for p in out.iterdir()}
    assert found == stage.wanted
    assert sorted(p.name for p in out.parent.iterdir()) == sorted([INPUTS, out.name])
