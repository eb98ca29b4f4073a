"""What a checkpoint is, as a report: identity with evidence, architecture, sizes, files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from llamatools.canonical import HEAD, TENSORS, expand, tensors
from llamatools.checkpoint import Checkpoint

SCHEMA = "urn:llamatools:inspect:1"


@dataclass(frozen=True)
class Parameters:
    """Counts of parameters: of the model, of its files, and by group."""

    unique: int
    stored: int
    by_group: dict[str, int]


def count_parameters(source: Checkpoint) -> Parameters:
    """A tied head counts once as a parameter, and as stored where the files hold it."""
    shapes = tensors(source.spec)
    groups: dict[str, int] = defaultdict(int)
    for t in TENSORS:
        for name in expand(t.template, source.spec.n_layers):
            if name in shapes:
                groups[t.group] += source.values[name].rows * source.values[name].columns
    stored = sum(t.numel for t in source.stored if t.name not in source.dropped)
    return Parameters(sum(groups.values()), stored, dict(groups))


def inspect(source: Checkpoint) -> dict[str, object]:
    """The report that `inspect --json` prints; schemas/inspect.json describes it."""
    spec, identity = source.spec, source.identity
    parameters = count_parameters(source)
    by_dtype: dict[str, dict[str, int]] = {}
    for t in source.stored:
        entry = by_dtype.setdefault(t.dtype.name, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += t.nbytes
    per_file: dict[str, int] = defaultdict(int)
    for t in source.stored:
        per_file[t.file.name] += 1
    return {
        "$schema": SCHEMA,
        "model": {
            "title": identity.title,
            "generation": identity.generation.key,
            "official": identity.official.key if identity.official else None,
            "exact": identity.exact,
            "evidence": [
                {"what": e.what, "found": e.found, "official": e.official, "agrees": e.agrees}
                for e in identity.evidence
            ],
        },
        "layout": source.layout.name,
        "container": source.container,
        "shards": source.shards,
        "architecture": {**spec.to_json(), "attention": spec.attention},
        "head_stored": HEAD in source.values,
        "parameters": {
            "unique": parameters.unique,
            "stored": parameters.stored,
            "by_group": parameters.by_group,
        },
        "dtypes": by_dtype,
        "files": [
            {"name": f.name, "bytes": f.size, "tensors": per_file[f.name]} for f in source.files
        ],
        "travelling_files": list(source.folder.travellers()),
        "buffers_dropped": list(source.dropped),
        "conflicts": list(source.conflicts),
        "notes": list(source.notes),
    }
