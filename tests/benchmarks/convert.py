"""How long `llamatools convert` takes, and how much memory, against cp and other ways.

    python tests/benchmarks/convert.py --shape 1b

README.md beside this file says what is measured and how to read it. This process imports the
standard library only: everything that needs torch or numpy runs in a child.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from contenders import OURS_TO_HF, OURS_TO_META, SCRIPT, contender, selected
from figures import targets
from machine import machine
from report import as_json, machine_line, table, target_lines
from rounds import Outcome, run_rounds
from shapes import SHAPES, Shape

_HERE = Path(__file__).resolve().parent


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of this folder takes."""
    default = Path(tempfile.gettempdir()) / "llamatools-benchmark"
    parser.add_argument(
        "--workdir",
        type=Path,
        default=default,
        help="inputs are built here once and kept; outputs are removed (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--shape", default="1b", help=f"one or several of {','.join(SHAPES)} (default: 1b)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--once", action="store_true", help="no untimed rehearsal before each timed run"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--only", default="", help="contenders or groups, e.g. cp,ours")
    parser.add_argument(
        "--script-python", help="a python with transformers 4.46.3, to time its script too"
    )
    parser.add_argument("--script-rounds", type=int, default=1, help="default: 1, it is slow")
    given = parser.parse_args()

    given.shapes = given.shape.split(",")
    if unknown := [name for name in given.shapes if name not in SHAPES]:
        parser.error(f"--shape: unknown: {', '.join(unknown)}; known: {', '.join(SHAPES)}")
    try:
        words = [word for word in given.only.split(",") if word]
        given.names = selected(words, script=given.script_python is not None)
    except ValueError as error:
        parser.error(f"--only: {error}")
    if given.rounds < 1 or given.script_rounds < 1:
        parser.error("at least one round")
    given.workdir = given.workdir.resolve()
    return given


def build_inputs(shape: Shape, workdir: Path, names: list[str]) -> Path:
    """The folder with both checkpoints; built if it is not there."""
    folder = workdir / "inputs" / shape.name
    copies = (0 if folder.exists() else 2) + (2 if SCRIPT in names else 1)
    workdir.mkdir(parents=True, exist_ok=True)
    needed, free = copies * shape.nbytes, shutil.disk_usage(workdir).free
    if free < 1.05 * needed:
        sys.exit(
            f"{workdir}: {needed / 1e9:.0f} GB are needed for {shape.name}, "
            f"{free / 1e9:.0f} GB are free\n\nhint: choose another disk with --workdir"
        )
    if not folder.exists():
        print(f"building {shape.name} in {folder}", file=sys.stderr, flush=True)
        argv = [sys.executable, str(_HERE / "build_inputs.py"), shape.name, str(folder)]
        folder.parent.mkdir(exist_ok=True)
        if subprocess.run(argv, check=False).returncode:
            sys.exit("the inputs could not be built")
    return folder


def measured(shape: Shape, given: argparse.Namespace) -> dict[str, Outcome]:
    runs = given.workdir / "runs"
    inputs = build_inputs(shape, given.workdir, given.names)
    contenders = [
        contender(
            name,
            shape,
            inputs=inputs,
            runs=runs,
            rounds=given.rounds,
            script_python=given.script_python,
            script_rounds=given.script_rounds,
        )
        for name in given.names
    ]
    return run_rounds(contenders, runs, rehearse=not given.once)


def main() -> int:
    """0 whatever the figures are; 1 if llamatools failed or wrote other tensors."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that outputs are removed
    where = machine(given.workdir)
    results: dict[str, dict[str, Outcome]] = {}
    for name in given.shapes:
        results[name] = measured(SHAPES[name], given)
        print(table(SHAPES[name], results[name]), end="\n\n", flush=True)

    judged = targets(results)
    print(machine_line(where))
    print("timed runs:", "not rehearsed" if given.once else "each right after a rehearsal")
    print(target_lines(judged))
    if given.json:
        found = as_json(where, SHAPES, results, judged) | {"rehearsed": not given.once}
        text = json.dumps(found, indent=2)
        given.json.write_text(text + "\n")

    ours = [
        outcomes[name]
        for outcomes in results.values()
        for name in (OURS_TO_HF, OURS_TO_META)
        if name in outcomes
    ]
    return int(any(outcome.failure or outcome.equal is False for outcome in ours))


if __name__ == "__main__":
    sys.exit(main())
