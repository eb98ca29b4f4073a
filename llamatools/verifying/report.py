"""A verification as JSON: what --json prints, and what every other report is made of.

schemas/verify.json describes it.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from math import isfinite

import numpy as np

from llamatools.checkpoint import Checkpoint
from llamatools.golden.create import own_versions
from llamatools.golden.model import Golden
from llamatools.golden.sketch import Floats
from llamatools.verifying.compare import Compared
from llamatools.verifying.locate import point_errors
from llamatools.verifying.verdict import Verdict
from llamatools.verifying.verify import Outcome

SCHEMA = "urn:llamatools:verify:1"
Report = dict[str, object]


def build_report(
    checkpoint: Checkpoint, outcome: Outcome, golden_path: str | None, other: str | None
) -> Report:
    """`golden_path`, `other`: what the model was held against, by name; one of them, or none."""
    verdict = outcome.verdict
    return {
        "$schema": SCHEMA,
        "holds": outcome.holds,
        "problems": [*_failed(verdict), *outcome.problems],
        "model": {
            "path": str(checkpoint.path),
            "title": checkpoint.identity.title,
            "layout": checkpoint.layout.name,
            "weights": checkpoint.dtype.name,
        },
        "reference": _reference(outcome.golden, golden_path, other),
        "identical": outcome.identical,
        "gate": None if verdict is None else asdict(verdict.gate),
        "checks": [] if verdict is None else [asdict(c) for c in verdict.checks],
        "overall": None if verdict is None else asdict(verdict.overall),
        "prompts": [] if verdict is None else _prompts(outcome.compared, verdict),
        "points": [] if outcome.compared is None else _points(outcome.compared),
        "fault": _fault(verdict),
        "tensors": None if outcome.tensors is None else list(outcome.tensors),
        "differences": list(outcome.differences),
        "perplexity": asdict(outcome.perplexity) if outcome.perplexity else None,
        "perplexity_of_other": (
            asdict(outcome.perplexity_of_other) if outcome.perplexity_of_other else None
        ),
        "environment": {
            "machine": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "versions": own_versions(),
            "runs": list(outcome.runs),
        },
        "notes": list(outcome.notes),
    }


def _failed(verdict: Verdict | None) -> list[str]:
    """Every check that did not hold, as a sentence."""
    out = []
    for c in verdict.checks if verdict is not None else ():
        if c.holds:
            continue
        if c.limit is None:
            out.append("NaN or infinity in logits or hidden states")
        else:
            found = "no number" if c.found is None else f"{c.found:.3g}"
            out.append(f"{c.name} is {found}, more than {c.limit:g}")
    return out


def failures(outcome: Outcome) -> list[str]:
    """Why an outcome does not hold, and where, in a few sentences."""
    out = [*_failed(outcome.verdict), *outcome.problems]
    place = outcome.verdict.place if outcome.verdict is not None else None
    if place is not None:
        after = f" (right until {place.after})" if place.after else ""
        out.append(f"first bad: {place}{after}, at {place.positions.text}")
    return [*out, *(f"differs: {d}" for d in outcome.differences)]


def _reference(golden: Golden | None, path: str | None, other: str | None) -> Report | None:
    name = path or other
    if name is None:
        return None
    return {
        "kind": "golden" if path else "checkpoint",
        "path": name,
        "generator": golden.generator.name if golden else None,
        "versions": dict(golden.generator.versions) if golden else {},
        "own": golden.generator.own if golden else None,
        "dtype": golden.dtype if golden else None,
        "title": golden.source.title if golden else None,
        "fingerprint": golden.source.fingerprint if golden else None,
        "noise": asdict(golden.noise) if golden and golden.noise else None,
    }


def _prompts(compared: Compared | None, verdict: Verdict) -> list[Report]:
    assert compared is not None
    return [
        {
            "name": prompt.name,
            **asdict(totals),
            "at": list(prompt.positions),
            "kl": _numbers(rows.kl),
            "error": _numbers(np.sqrt(rows.square) / verdict.std),
        }
        for prompt, rows, totals in zip(
            compared.prompts, compared.rows, verdict.by_prompt, strict=True
        )
    ]


def _numbers(values: Floats) -> list[float | None]:
    return [float(f"{v:.6g}") if isfinite(v) else None for v in values.tolist()]


def _points(compared: Compared) -> list[Report]:
    """The error at every point over all positions, and the largest of one."""
    errors = point_errors(compared)
    return [
        {
            "point": str(point),
            "error": errors[point] if isfinite(errors[point]) else None,
            "largest": _largest(found),
        }
        for point, found in compared.hidden.items()
    ]


def _largest(errors: tuple[Floats, ...]) -> float | None:
    largest = max(float(e.max()) for e in errors)
    return largest if isfinite(largest) else None


def _fault(verdict: Verdict | None) -> Report | None:
    if verdict is None or verdict.place is None:
        return None
    place = verdict.place
    return {
        "point": str(place),
        "kind": place.kind,
        "layer": place.layer,
        "after": place.after,
        "error": place.error,
        "pattern": place.positions.pattern,
        "positions": place.positions.text,
        "causes": [{"key": c.key, "text": c.text} for c in verdict.causes],
    }
