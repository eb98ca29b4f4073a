"""Exact deltas: files of the bits in which a target differs from its base.

They are safetensors, so that others can read them; and no names in them are a model's, so that
nobody takes their bits for weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.canonical import tensors as canonical_tensors
from llamatools.checkpoint import Checkpoint
from llamatools.containers.base import Container, FileLayout, StoredTensor
from llamatools.containers.detect import open_container
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.deltas.proof import NAME, Proof
from llamatools.errors import BadInput
from llamatools.expr.nodes import Read
from llamatools.family.identify import identify
from llamatools.family.refuse import refuse_config
from llamatools.layouts import hf_config
from llamatools.layouts.hf import HF
from llamatools.opening.folder import Folder
from llamatools.opening.reconcile import reconcile
from llamatools.opening.weightfiles import Scheme
from llamatools.plan.pack import Entry, Naming, pack
from llamatools.plan.plan import Plan, PlannedFile, Step, Target
from llamatools.text import listing, safe

PREFIX = "delta."
_METADATA = {"format": "pt", "llamatools.delta": "xor"}
_PARTS = re.compile(r"delta-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})\.safetensors")
_SCHEME = Scheme("delta.safetensors", _PARTS)
_TOLD_BY = (
    "layers.0.attention.q.weight",
    "layers.0.attention.k.weight",
    "layers.0.mlp.gate.weight",
)
"""Tensors whose shapes a config is held against."""


def _layout(entries: Sequence[Entry], stem: str) -> FileLayout:
    return safetensors_layout(entries, _METADATA)


_NAMING = Naming("delta", "safetensors", _layout)


def as_exact(plan: Plan, max_shard_size: int) -> Plan:
    """The plan of an HF layout, with its tensors in an exact delta's files instead.

    Its config goes into the proof: a folder with a config.json is taken for a model by others.
    """
    entries: list[Entry] = [(PREFIX + s.name, s.value.dtype, s.value.shape) for s in plan.steps]
    runs = pack([s.value.nbytes for s in plan.steps], max_shard_size)
    files = []
    steps = []
    for i, run in enumerate(runs):
        layout = _layout([entries[j] for j in run], "")
        files.append(PlannedFile(_NAMING.name(i, len(runs)), layout))
        for slot, step in enumerate(plan.steps[run.start : run.stop]):
            steps.append(Step(step.name, step.value, (Target(i, slot, 0, 0, step.value.rows),)))
    documents = {
        name: data
        for name, data in plan.documents.items()
        if name != hf_config.NAME and not name.endswith(".index.json")
    }
    return replace(plan, steps=tuple(steps), files=tuple(files), documents=documents)


def open_exact(folder: Folder, proof: Proof) -> Checkpoint:
    """The target as a checkpoint whose values are the bits that differ."""
    assert proof.config is not None
    containers = _containers(folder)
    try:
        stored = _tensors(containers, folder)
        values = {name: Read(t) for name, t in stored.items()}
        proof.check_tensors(values, safe(folder.path))
        _check_types(stored, proof)
        return _checkpoint(folder, proof.config, containers, stored)
    except BaseException:
        for c in containers:
            c.file.close()
        raise


def _containers(folder: Folder) -> list[Container]:
    where = safe(folder.path)
    names = [_SCHEME.plain] if _SCHEME.plain in folder.names else _SCHEME.members(folder.names)
    if not names:
        raise BadInput(
            f"{where}: {NAME} speaks of an exact delta; no {_SCHEME.plain} beside it",
            hint="fetch the missing files",
        )
    if names != [_SCHEME.plain]:
        _SCHEME.check_complete(names, where)
    out: list[Container] = []
    try:
        out.extend(open_container(folder.path / name) for name in names)
    except BaseException:
        for c in out:
            c.file.close()
        raise
    return out


def _tensors(containers: Sequence[Container], folder: Folder) -> dict[str, StoredTensor]:
    """By canonical name; BadInput where a name is not a delta's, or stands twice."""
    out: dict[str, StoredTensor] = {}
    strange = []
    for t in (t for c in containers for t in c.tensors.values()):
        name = t.name.removeprefix(PREFIX)
        if name == t.name or name in out:
            strange.append(t.name)
        out[name] = t
    if strange:
        raise BadInput(f"{safe(folder.path)}: no tensors of an exact delta: {listing(strange)}")
    return out


def _check_types(stored: Mapping[str, StoredTensor], proof: Proof) -> None:
    problems = [
        f"{safe(t.file.path)}: {safe(t.name)}: expected {proof.tensors[name].dtype}, "
        f"found {t.dtype}"
        for name, t in stored.items()
        if t.dtype != proof.tensors[name].dtype
    ]
    if problems:
        raise BadInput(problems[:20], hint="the files do not belong to this delta")


def _checkpoint(
    folder: Folder,
    config: Mapping[str, object],
    containers: Sequence[Container],
    stored: Mapping[str, StoredTensor],
) -> Checkpoint:
    refuse_config(config)
    claims = hf_config.read_config(config)
    tied = bool(claims.tied)
    if tied == (HEAD in stored):
        raise BadInput(
            f"{safe(folder.path / NAME)}: config: tie_word_embeddings is {tied}, and the files "
            f"hold {'a' if HEAD in stored else 'no'} head"
        )
    layers = len({n.split(".")[1] for n in stored if n.startswith("layers.")})
    if claims.n_layers != layers:
        raise BadInput(
            f"{safe(folder.path / NAME)}: config: {claims.n_layers} layers, but the files hold "
            f"tensors of {layers}"
        )
    missing = [n for n in (EMBEDDING, *_TOLD_BY) if n not in stored]
    if missing:
        raise BadInput(f"{safe(folder.path)}: missing tensors: {listing(missing)}")
    shapes = {name: t.shape for name, t in stored.items()}
    spec, conflicts = reconcile(claims, shapes, tied=tied, same_head=tied)
    unknown = sorted(stored.keys() - canonical_tensors(spec).keys())
    if unknown:
        raise BadInput(f"{safe(folder.path)}: unexpected tensors: {listing(unknown)}")
    return Checkpoint(
        path=folder.path,
        folder=folder,
        layout=HF,
        container="safetensors",
        files=tuple(c.file for c in containers),
        config=config,
        claims=claims,
        spec=spec,
        identity=identify(spec, context_is_known=True),
        values={name: Read(stored[name]) for name in canonical_tensors(spec)},
        same_head=tied,
        stored=tuple(stored.values()),
        dropped=(),
        shards=1,
        kv_copies=1,
        conflicts=conflicts,
        notes=claims.notes,
    )
