"""The results as text, and as one JSON object."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from figures import Target, cpu, peak_rss_mb, ratio, wall
from rounds import Outcome
from shapes import Shape

_COLUMNS = (
    ("", 17),
    ("rounds", 7),
    ("wall s", 8),
    ("min-max", 14),
    ("x cp", 7),
    ("x cp/round", 11),
    ("cpu s", 8),
    ("RSS MB", 8),
    ("anon MB", 8),
    ("read MB", 8),
    ("tensors", 9),
)


def table(shape: Shape, outcomes: Mapping[str, Outcome]) -> str:
    lines = [
        f"{shape.name}: {shape.parameters:,} parameters, {shape.nbytes / 1e9:.2f} GB in bf16",
        _line([title for title, _ in _COLUMNS]),
    ]
    lines += [_row(name, outcomes) for name in outcomes]
    lines += [f"  {name} {o.failure}" for name, o in outcomes.items() if o.failure]
    lines += [f"  {name} {o.comparison}" for name, o in outcomes.items() if o.equal is False]
    return "\n".join(lines)


def _row(name: str, outcomes: Mapping[str, Outcome]) -> str:
    outcome = outcomes[name]
    if not outcome.runs:
        return _line([name, "0", *["-"] * (len(_COLUMNS) - 3), "failed"])
    walls = [run.wall for run in outcome.runs]
    found = ratio(name, outcomes)
    return _line(
        [
            name,
            str(len(walls)),
            f"{wall(outcome):.2f}",
            f"{min(walls):.2f}-{max(walls):.2f}",
            f"{found.of_medians:.2f}" if found else "-",
            f"{found.per_round:.2f}" if found else "-",
            f"{cpu(outcome):.2f}",
            f"{peak_rss_mb(outcome):.0f}",
            f"{max(run.peak_anonymous for run in outcome.runs) / 1e6:.0f}",
            f"{max(run.disk_read for run in outcome.runs) / 1e6:.0f}",
            {True: "equal", False: "DIFFER", None: "-"}[outcome.equal],
        ]
    )


def _line(cells: list[str]) -> str:
    name, *rest = (
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, (_, width)) in enumerate(zip(cells, _COLUMNS, strict=True))
    )
    return (name + "".join(rest)).rstrip()


def machine_line(machine: Mapping[str, str | int | float]) -> str:
    memory = int(machine["memory_bytes"]) / 2**30
    return (
        f"machine: {machine['cores']} cores ({machine['cpu']}), {memory:.0f} GiB, "
        f"{machine['kernel']}, {machine['file_system']}, Python {machine['python']}, "
        f"load {machine['load']:.1f} before; "
        f"RSS cannot read below {own_rss_mb():.0f} MB"
    )


def target_lines(judged: list[Target]) -> str:
    if not judged:
        return "targets: none could be judged (they need cp and ours)"
    return "\n".join(
        f"{'reached' if target.reached else 'NOT reached'}: {target.text}" for target in judged
    )


def as_json(
    machine: Mapping[str, str | int | float],
    shapes: Mapping[str, Shape],
    results: Mapping[str, Mapping[str, Outcome]],
    judged: list[Target],
) -> dict[str, Any]:
    """Sizes in bytes, times in seconds."""
    return {
        "machine": dict(machine),
        "shapes": {
            name: {
                "parameters": shapes[name].parameters,
                "bytes": shapes[name].nbytes,
                "contenders": {who: _contender(who, outcomes) for who in outcomes},
            }
            for name, outcomes in results.items()
        },
        "targets": [asdict(target) for target in judged],
    }


def _contender(name: str, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    outcome, found = outcomes[name], ratio(name, outcomes)
    return {
        **asdict(outcome),
        "median_wall": wall(outcome) if outcome.runs else None,
        "ratio_to_cp": asdict(found) if found else None,
    }


def own_rss_mb() -> float:
    """This process's peak, below which a child's figure cannot be."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
