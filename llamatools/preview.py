"""A prepared conversion as a report: what it would read, write, need and change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llamatools.engine.targets import free_bytes
from llamatools.engine.work import left_of
from llamatools.plan.passes.cast import casts

if TYPE_CHECKING:
    from llamatools.prepared import Prepared

SCHEMA = "urn:llamatools:plan:1"


def preview(
    prepared: Prepared, verification: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The report that `convert --dry-run --json` prints; schemas/plan.json describes it.

    `verification`: what would be done to the output before it gets its name.
    """
    plan, source, limits = prepared.plan, prepared.source, prepared.limits
    start = prepared.origin or source
    return {
        "$schema": SCHEMA,
        "model": {"title": source.identity.title, **plan.spec.to_json()},
        "source": {
            "layout": start.layout.name,
            "container": start.container,
            "files": len(start.files),
        },
        "out": str(prepared.out),
        "files": [
            {"name": f.name, "bytes": f.layout.size, "tensors": len(f.layout.slots)}
            for f in plan.files
        ],
        "documents": {name: len(data) for name, data in plan.documents.items()},
        "travelling_files": list(plan.travellers),
        "buffers_dropped": list(source.dropped),
        "bytes_read": plan.read_bytes,
        "bytes_written": plan.write_bytes,
        "buffer_bytes": limits.peak,
        "jobs": limits.jobs,
        "disk_needed": prepared.disk_needed,
        "disk_free": free_bytes(prepared.out),
        "files_finished": left_of(plan, prepared.out),
        "dtype_changes": [
            {"name": c.name, "before": c.x.dtype.name, "after": c.to.name} for c in casts(plan)
        ],
        "conflicts": [*source.conflicts, *plan.conflicts],
        "notes": [*source.notes, *plan.notes],
        "tokenizer": plan.tokenizer,
        "vocabulary": plan.vocabulary,
        "merge": plan.merge,
        "verification": verification,
        "steps": [
            {
                "name": s.name,
                "dtype": s.value.dtype.name,
                "shape": list(s.value.shape),
                "value": s.value.describe(),
                "stored_in_pairs_of_heads": s.pair_heads,
                "targets": [
                    {
                        "file": plan.files[t.file].name,
                        "axis": t.axis,
                        "start": t.start,
                        "stop": t.stop,
                    }
                    for t in s.targets
                ],
            }
            for s in plan.steps
        ],
    }
