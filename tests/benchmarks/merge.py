"""How long `llamatools merge-lora` takes, and how much memory, against cp and PEFT.

    python tests/benchmarks/merge.py --shape 1b

README.md beside this file says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from contenders import COPY, Contender, copy_of
from convert import add_common_options, build_inputs
from figures import Target, peak_rss_mb, ratio, wall
from machine import machine
from report import as_json, machine_line, table, target_lines
from rounds import Outcome, run_rounds
from shapes import SHAPES, Shape

_HERE = Path(__file__).resolve().parent

OURS, PEFT = "merge-lora", "peft"
_MAX_RATIO = 2.0
_MIN_SPEEDUP = 4.0
_MAX_RSS_MB = 500
_MAX_GROWTH = 1.10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_common_options(parser)
    parser.add_argument(
        "--peft-rounds", type=int, default=3, help="0 leaves PEFT out (default: 3, it is slow)"
    )
    return parser.parse_args()


def build_adapter(shape: Shape, workdir: Path) -> Path:
    folder = workdir / "adapters" / shape.name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        argv = [sys.executable, str(_HERE / "adapter_input.py"), shape.name, str(folder)]
        subprocess.run(argv, check=True)
    return folder


def contenders(
    base: Path, adapter: Path, runs: Path, rounds: int, peft_rounds: int
) -> list[Contender]:
    check = (sys.executable, str(_HERE / "nearest.py"), str(base), str(adapter))
    ours = (sys.executable, "-m", "llamatools", "merge-lora", str(base), str(adapter))
    out = runs / OURS
    found = [
        copy_of(base, runs / COPY, rounds),
        Contender(OURS, (*ours, str(out), "--quiet"), base, out, check, rounds),
    ]
    if peft_rounds:
        out = runs / PEFT
        script = (sys.executable, str(_HERE / "peft_merge.py"), str(base), str(adapter), str(out))
        found.append(Contender(PEFT, script, base, out, check, peft_rounds))
    return found


def targets(results: Mapping[str, Mapping[str, Outcome]]) -> list[Target]:
    judged = []
    for shape, outcomes in results.items():
        ours, peft = outcomes[OURS], outcomes.get(PEFT)
        if not ours.runs:
            continue
        if found := ratio(OURS, outcomes):
            text = (
                f"{shape}: at most {_MAX_RATIO:.1f}x cp + fsync: "
                f"{found.of_medians:.2f}x medians, {found.per_round:.2f}x per round"
            )
            judged.append(Target(text, max(found.of_medians, found.per_round) <= _MAX_RATIO))
        if peft and peft.runs:
            speedup = wall(peft) / wall(ours)
            text = f"{shape}: at least {_MIN_SPEEDUP:.0f}x as fast as PEFT: {speedup:.1f}x"
            judged.append(Target(text, speedup >= _MIN_SPEEDUP))
        rss = peak_rss_mb(ours)
        judged.append(
            Target(f"{shape}: peak RSS at most {_MAX_RSS_MB} MB: {rss:.0f} MB", rss <= _MAX_RSS_MB)
        )
    small, large = (results.get(shape, {}).get(OURS) for shape in ("1b", "8b"))
    if small and large and small.runs and large.runs:
        grown = peak_rss_mb(large) / peak_rss_mb(small)
        text = f"peak RSS at 8b at most {_MAX_GROWTH:.2f}x that at 1b: {grown:.2f}x"
        judged.append(Target(text, grown <= _MAX_GROWTH))
    return judged


def main() -> int:
    """0 whatever the figures are; 1 if llamatools failed or rounded wrongly."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that outputs are removed
    workdir = given.workdir.resolve()
    where = machine(workdir)
    results: dict[str, dict[str, Outcome]] = {}
    for name in given.shape.split(","):
        shape, runs = SHAPES[name], workdir / "runs"
        base = build_inputs(shape, workdir, [PEFT] if given.peft_rounds else []) / "hf"
        adapter = build_adapter(shape, workdir)
        everyone = contenders(base, adapter, runs, given.rounds, given.peft_rounds)
        results[name] = run_rounds(everyone, runs, rehearse=not given.once)
        print(table(shape, results[name]), end="\n\n", flush=True)
        print(*(f"{who}: {o.comparison}" for who, o in results[name].items()), sep="\n")

    judged = targets(results)
    print(machine_line(where))
    print(target_lines(judged))
    if given.json:
        found = as_json(where, SHAPES, results, judged) | {"rehearsed": not given.once}
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    ours = [outcomes[OURS] for outcomes in results.values()]
    return int(any(outcome.failure or outcome.equal is False for outcome in ours))


if __name__ == "__main__":
    sys.exit(main())
