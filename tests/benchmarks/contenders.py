"""What is timed: for each contender, the command, and what its output must equal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shapes import Shape

_HERE = Path(__file__).resolve().parent
_COPY = 'mkdir "$1" && cp --reflink=never "$0"/* "$1" && sync "$1"/* "$1"'

COPY = "cp"
OURS_TO_HF = "ours-to-hf"
OURS_TO_META = "ours-to-meta"
SCRIPT = "script-to-hf"
NAMES = (COPY, OURS_TO_HF, OURS_TO_META, "load-all-to-hf", "load-all-to-meta", SCRIPT)


@dataclass(frozen=True)
class Contender:
    """One command. The folder `out` does not exist when it starts.

    `check`, with `out` after it, says whether what it wrote is right.
    """

    name: str
    argv: tuple[str, ...]
    source: Path
    out: Path
    check: tuple[str, ...]
    rounds: int
    env: dict[str, str] = field(default_factory=dict)


def same_as(expected: Path) -> tuple[str, ...]:
    """A check for the very tensors of a checkpoint, which is of the layout that is written."""
    return (sys.executable, str(_HERE / "same_tensors.py"), str(expected))


def copy_of(folder: Path, out: Path, rounds: int) -> Contender:
    """The yardstick: cp, and a sync of what it wrote."""
    shell = ("sh", "-c", _COPY, str(folder), str(out))
    return Contender(COPY, shell, folder, out, same_as(folder), rounds)


def selected(names: Iterable[str], *, script: bool) -> list[str]:
    """Full names for names and groups ("ours" is both directions), in the order they are run.

    No names: all, the transformers script only if `script`. Raises ValueError for unknown names.
    """
    asked = list(names) or [name for name in NAMES if script or name != SCRIPT]

    def matches(word: str) -> list[str]:
        return [name for name in NAMES if name == word or name.startswith(f"{word}-to-")]

    if unknown := [word for word in asked if not matches(word)]:
        raise ValueError(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}")
    wanted = {name for word in asked for name in matches(word)}
    if SCRIPT in wanted and not script:
        raise ValueError(f"{SCRIPT} needs --script-python")
    return [name for name in NAMES if name in wanted]


def contender(
    name: str,
    shape: Shape,
    *,
    inputs: Path,
    runs: Path,
    rounds: int,
    script_python: str | None,
    script_rounds: int,
) -> Contender:
    meta, hf, out = inputs / "meta", inputs / "hf", runs / name
    program: tuple[str, ...]
    argv: tuple[str, ...]
    if name == COPY:
        return copy_of(meta, out, rounds)
    if name == SCRIPT:
        program = (script_python or sys.executable, str(_HERE / "transformers_script.py"))
        # It writes an intermediate copy; that goes to the same disk.
        env = {"TMPDIR": str(runs), "HF_HUB_OFFLINE": "1"}
        argv = (*program, str(meta), str(out))
        return Contender(name, argv, meta, out, same_as(hf), script_rounds, env)

    who, _, target = name.partition("-to-")
    source, expected = (meta, hf) if target == "hf" else (hf, meta)
    if who == "ours":
        program = (sys.executable, "-m", "llamatools", "convert")
        argv = (*program, str(source), str(out), "--to", target, "--quiet")
    else:
        program = (sys.executable, str(_HERE / "load_all.py"))
        argv = (*program, f"to-{target}", shape.name, str(source), str(out))
    return Contender(name, argv, source, out, same_as(expected), rounds)
