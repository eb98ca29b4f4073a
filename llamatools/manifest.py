"""llamatools.json: what an output is, where it came from, and the digests that prove it."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from llamatools._version import __version__
from llamatools.checkpoint import Checkpoint
from llamatools.engine.digest import fingerprint
from llamatools.engine.outcome import Outcome
from llamatools.history import merged_before
from llamatools.plan.build import Options
from llamatools.plan.passes.cast import casts
from llamatools.plan.passes.exactsum import rounded
from llamatools.plan.passes.merge import lost_share, merges
from llamatools.plan.plan import Plan
from llamatools.seal import sealed

SCHEMA = "urn:llamatools:manifest:1"


def build_manifest(
    source: Checkpoint,
    options: Options,
    plan: Plan,
    outcome: Outcome,
    files: Mapping[str, tuple[int, str]],
    origin: Checkpoint | None = None,
) -> dict[str, object]:
    """The manifest of a finished run. `files`: name -> (bytes, BLAKE3), of every file written.

    `origin`: whose weights were changed, where the source is not that checkpoint itself.

    It holds nothing that differs between two runs of one command: no times, no absolute paths.
    """
    start = origin or source
    document: dict[str, object] = {
        "$schema": SCHEMA,
        "tool": {"name": "llamatools", "version": __version__},
        "fingerprint": fingerprint(outcome.tensors),
        "lossless": not casts(plan) and plan.vocabulary is None and plan.merge is None,
        "source": {
            "layout": start.layout.name,
            "container": start.container,
            "files": [{"name": f.name, "bytes": f.size} for f in start.files],
            "buffers_dropped": list(start.dropped),
            "kv_copies": start.kv_copies,
            "adapters": merged_before(start.folder),
            "checksums": {
                "checked": outcome.records_checked,
                "partial": outcome.records_partial,
            },
        },
        "options": options.recorded(),
        "model": {"title": source.identity.title, **plan.spec.to_json()},
        "conflicts": [*source.conflicts, *plan.conflicts],
        "notes": [*source.notes, *plan.notes],
        "tokenizer": plan.tokenizer,
        "vocabulary": plan.vocabulary,
        "merge": merge_report(source, plan, outcome),
        "files": [
            {"name": name, "bytes": size, "blake3": digest}
            for name, (size, digest) in sorted(files.items())
        ],
        "tensors": [
            {
                "name": step.name,
                "dtype": step.value.dtype.name,
                "shape": list(step.value.shape),
                "blake3": outcome.tensors[step.name],
            }
            for step in plan.steps
        ],
        "casts": cast_report(plan, outcome),
    }
    return sealed(document)


def merge_report(source: Checkpoint, plan: Plan, outcome: Outcome) -> dict[str, object] | None:
    """What was merged into what, and how much of it the rounding took: per tensor and in all."""
    if plan.merge is None:
        return None
    tensors, total = [], {"change": 0, "lost": 0}
    for merged in merges(plan):
        counts = outcome.counts[merged.name]
        total = {key: total[key] + counts.get(key, 0) for key in total}
        tensors.append(
            {
                "name": merged.name,
                "change": sqrt(rounded(counts.get("change", 0))),
                "lost": lost_share(counts),
            }
        )
    return {
        **plan.merge,
        "base_fingerprint": base_fingerprint(plan, outcome),
        "change": sqrt(rounded(total["change"])),
        "lost": lost_share(total),
        "tensors": tensors,
    }


def base_fingerprint(plan: Plan, outcome: Outcome) -> str:
    """The fingerprint of the source, whose tensors were digested while they were changed."""
    return fingerprint(
        {name: outcome.before.get(name) or outcome.tensors[name] for name in plan.source_names}
    )


def cast_report(plan: Plan, outcome: Outcome) -> list[dict[str, object]]:
    """Per cast tensor: types before and after, and how many values were altered, and how."""
    return [
        {
            "name": c.name,
            "before": c.x.dtype.name,
            "after": c.to.name,
            **outcome.counts.get(c.name, {}),
        }
        for c in casts(plan)
    ]
