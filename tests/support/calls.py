"""The command line called in this process, as the console script would."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatools.cli import failures
from llamatools.cli.main import cli


@dataclass(frozen=True)
class Called:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: object) -> Called:
    """`llamatools ARGUMENTS`, without a process of its own."""
    words = [str(a) for a in arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = failures.guard(lambda: cli(words, "llamatools", standalone_mode=False), words)
    return Called(code, out.getvalue(), err.getvalue())


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """`llamatools ARGUMENTS` as a process; its streams are pipes unless `options` say otherwise."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "llamatools", *map(str, arguments)]
    return subprocess.Popen(command, **(streams | options))


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; a value of `...` removes the key."""
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            data.pop(key, None)
        else:
            data[key] = value
    path.write_text(json.dumps(data))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and its bytes."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def leftovers(out: Path) -> list[str]:
    """What lies beside `out` that a run for it made: its staging folder, or itself."""
    return sorted(n.name for n in out.parent.iterdir() if out.name in n.name)
