"""`merge-lora`: adapters into a checkpoint, by the same line as every conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamatools.adapters.opening import open_adapter
from llamatools.adapters.part import Adapter
from llamatools.adapters.targets import lacking, unsaid
from llamatools.canonical import HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.conversion import prepare
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.engine.targets import check_paths
from llamatools.errors import BadInput, Unsupported, UsageError
from llamatools.history import check_new
from llamatools.merging.fit import Names
from llamatools.merging.values import merge_values
from llamatools.opening.folder import scan
from llamatools.opening.naming import model_name
from llamatools.plan.build import Options
from llamatools.plan.plan import Plan
from llamatools.prepared import Prepared
from llamatools.text import count, listing, safe
from llamatools.tokenizer import json_write
from llamatools.tokenizer.combine import MODEL_NAME


@dataclass(frozen=True)
class Merge:
    """What is merged into a base."""

    adapters: tuple[str, ...]
    """Paths, in the order in which they are merged."""
    weights: tuple[float, ...] | None = None
    """Parts of what each does to the base alone, to be added up; None: one after the other."""
    allow_again: bool = False
    """Also what the base is known to hold already."""

    def __post_init__(self) -> None:
        if not self.adapters:
            raise UsageError("no adapter to merge")
        if self.weights is not None and len(self.weights) != len(self.adapters):
            raise UsageError(
                f"--weights: {count(len(self.weights), 'weight')} for "
                f"{count(len(self.adapters), 'adapter')}"
            )


def prepare_merge(
    base: Checkpoint,
    out: str | Path,
    merge: Merge,
    options: Options,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> Prepared:
    """Plan a merge and check everything that can be checked before writing."""
    for path in merge.adapters:
        check_paths(Path(path), Path(out), force=force)
    adapters = [open_adapter(path) for path in merge.adapters]
    if not merge.allow_again:
        check_new(base.folder, [(f"adapter {safe(a.name)}", a.digest) for a in adapters])
    notes = _complete(base, adapters)
    edited = merge_values(base, adapters, merge.weights)
    tokenizer, doubts = _tokenizer(base, edited.checkpoint, merge, options)
    conflicts = (*base.conflicts, *_other_bases(base, adapters), *doubts)

    def amend(plan: Plan) -> Plan:
        return replace(
            plan,
            merge=_report(adapters, merge),
            unused=edited.unused,
            source_names=tuple(n for n in base.values if n != HEAD or not base.spec.tied),
        )

    return prepare(
        replace(edited.checkpoint, notes=(*base.notes, *notes), conflicts=conflicts),
        out,
        replace(options, tokenizer=tokenizer),
        jobs=jobs,
        max_memory=max_memory,
        force=force,
        amend=amend,
    )


def _report(adapters: Sequence[Adapter], merge: Merge) -> dict[str, object]:
    weights: Sequence[float | None] = merge.weights or [None] * len(adapters)
    return {
        "adapters": [
            {
                "name": a.name,
                "format": a.format,
                "kind": a.kind,
                "blake3": a.digest,
                "weight": weight,
                "modules": len(a.parts),
                "scales": sorted(
                    {p.low_rank.scale for p in a.parts.values() if p.low_rank is not None}
                ),
            }
            for a, weight in zip(adapters, weights, strict=True)
        ]
    }


def _complete(base: Checkpoint, adapters: Sequence[Adapter]) -> list[str]:
    """BadInput where a file lacks modules that its config names; notes on the contrary."""
    names = Names(base.spec.n_layers)
    modules = names.modules(base.values.keys() | {HEAD})
    problems, notes = [], []
    for a in adapters:
        notes += [f"adapter {safe(a.name)}: {n}" for n in a.notes]
        if a.config is None:
            continue
        parts = {names.path(m): p for m, p in a.parts.items()}
        try:
            missing = lacking(a.config, parts, modules, tied=base.spec.tied)
            more = unsaid(a.config, parts)
        except Unsupported as e:
            notes.append(f"adapter {safe(a.name)}: its targets were not checked: {e.problems[0]}")
            continue
        if missing:
            problems.append(
                f"adapter {safe(a.name)}: its config names {count(len(missing), 'module')} "
                f"of which the file holds nothing: {listing(missing)}"
            )
        if more:
            notes.append(
                f"adapter {safe(a.name)}: holds factors of modules that its config does not name, "
                f"and they are merged: {listing(more)}"
            )
    if problems:
        raise BadInput(problems, hint="the file is incomplete, or belongs to another config")
    return notes


def _other_bases(base: Checkpoint, adapters: Sequence[Adapter]) -> list[str]:
    """Where an adapter names another base than the one it is merged into."""
    ours = {model_name(base.folder.path)}
    stated = base.config.get("_name_or_path")
    if isinstance(stated, str) and stated:
        ours.add(stated.rstrip("/").rpartition("/")[2])
    known = {name.lower() for name in ours}
    return [
        f"adapter {safe(a.name)} was trained on {safe(a.base_model)}; "
        f"the base here is {listing(sorted(ours))}"
        for a in adapters
        if a.base_model and a.base_model.rstrip("/").rpartition("/")[2].lower() not in known
    ]


def _tokenizer(
    base: Checkpoint, merged: Checkpoint, merge: Merge, options: Options
) -> tuple[str | None, list[str]]:
    """The tokenizer to write: an adapter's, where the vocabulary changes; and what is doubtful."""
    if options.tokenizer is not None:
        return options.tokenizer, []
    holders = [p for p in merge.adapters if {MODEL_NAME, json_write.NAME} & scan(Path(p)).names]
    if merged.spec.vocab_size == base.spec.vocab_size:
        return None, []
    if holders:
        return _folder(holders[-1]), []
    return None, [
        f"the vocabulary changes from {base.spec.vocab_size:,} to {merged.spec.vocab_size:,} rows, "
        "and no adapter brings a tokenizer; --tokenizer names one"
    ]


def _folder(path: str) -> str:
    return path if Path(path).is_dir() else str(Path(path).parent)
