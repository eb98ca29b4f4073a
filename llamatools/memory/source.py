"""From what the user names to a model: a checkpoint, a bare config, or a released model's name.

Only names, headers and configs are read; no tensor data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.containers.base import StoredTensor
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput, Unsupported
from llamatools.family.identify import identify
from llamatools.layouts import hf_config, meta_config
from llamatools.memory import registry
from llamatools.memory.architecture import Architecture, dense
from llamatools.memory.config import read_config_file
from llamatools.memory.described import Described
from llamatools.memory.formats import Format, of_config, of_dtype
from llamatools.memory.parameters import Weight, weights
from llamatools.opening.folder import Folder, scan
from llamatools.opening.weightfiles import weight_files
from llamatools.text import count, listing, nbytes, safe

_CONFIGS = (hf_config.NAME, meta_config.NAME)
_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """What the files hold, by their headers."""

    files: int
    elements: int
    """As shaped in the files, copies included, buffers not."""
    by_dtype: dict[str, tuple[int, int]]
    """dtype -> (tensors, bytes)"""

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.by_dtype.values())


@dataclass(frozen=True)
class Subject:
    """The model that is asked about."""

    kind: str
    """"checkpoint", "config" or "name"."""
    name: str
    title: str
    official: str | None
    architecture: Architecture
    format: Format
    """What most weights are in, or would be."""
    weights: tuple[Weight, ...]
    """Each once, in the format it is stored in."""
    stored: Stored | None = None
    loose: str | None = None
    """Why `weights` are no exact account of the bytes: they are packed, unexpected, unknown."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_subject(source: str) -> Subject:
    """The subject that `source` names. What exists as a file or folder is never taken as a name."""
    path = Path(source)
    if not _exists(path):
        return _by_name(source)
    if path.name.endswith(".json") and not path.is_dir():
        folder = scan(path)
        return _described(source, read_config_file(path.name, folder.json(path.name)))
    try:
        opened = open_checkpoint(path, probe=False)
    except Unsupported as refusal:
        return _unconverted(path, source, refusal)
    except BadInput:
        bare = _config_without_weights(path)
        if bare is None:
            raise
        return bare
    with opened:
        return _opened(source, opened)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _by_name(source: str) -> Subject:
    named = registry.by_name(source)
    if named is not None:
        fmt = of_config(None)
        every = weights(named.architecture, fmt)
        return Subject("name", named.key, named.title, named.key, named.architecture, fmt, every)
    if _HUB.fullmatch(source) and not source.startswith("."):
        raise Unsupported(
            f"{safe(source)}: no such file or folder, and repositories of a hub are not "
            "supported yet",
            hint="fetch its config.json (the sizes) or its files, and give their path",
        )
    near = registry.alike(source)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise BadInput(
        f"{safe(source)}: no such file or folder, nor the name of a released model",
        hint=f"{hint}names are {', '.join(registry.names())}",
    )


def _described(source: str, d: Described) -> Subject:
    """A bare config: what it says, in the type it says."""
    title, key, context = _identity(d.architecture)
    spec = d.architecture.spec
    a = replace(d.architecture, spec=replace(spec, context=spec.context or context))
    warnings, loose = list(d.warnings), None
    if d.quantised:
        loose = f"as if in {d.format.name}: quantised bytes cannot be told without the files"
        warnings.append(
            f"the config says the weights are quantised ({d.quantised}); without the files their "
            f"bytes are unknown, and {d.format.name} is shown: see --weights-dtype"
        )
    return Subject(
        "config", source, title, key, a, d.format, weights(a, d.format), loose=loose,
        warnings=tuple(warnings), notes=d.notes,
    )  # fmt: skip


def _identity(a: Architecture) -> tuple[str, str | None, int | None]:
    """(title, official key, the context that such models are made for)"""
    if a.experts or a.crosses:
        known = registry.of_sizes(a)
        if known:
            return known.title, known.key, known.architecture.spec.context
        return ("unlisted Llama 4" if a.experts else "unlisted Llama 3.2 vision model"), None, None
    found = identify(a.spec, context_is_known=a.spec.context is not None)
    return found.title, found.official.key if found.official else None, found.context


def _stored(tensors: Iterable[StoredTensor], dropped: Iterable[str], files: int) -> Stored:
    by_dtype: dict[str, tuple[int, int]] = {}
    elements, buffers = 0, set(dropped)
    for t in tensors:
        n, size = by_dtype.get(t.dtype.name, (0, 0))
        by_dtype[t.dtype.name] = (n + 1, size + t.nbytes)
        elements += 0 if t.name in buffers else t.numel
    return Stored(files, elements, by_dtype)


def _opened(source: str, ck: Checkpoint) -> Subject:
    """A checkpoint whose every tensor is known: each counts once, in its own type."""
    identity = ck.identity
    spec = replace(ck.spec, context=ck.spec.context or identity.context)
    a = dense(spec, split_vocabulary=identity.generation.split_vocabulary)
    every = tuple(replace(w, format=of_dtype(ck.values[w.name].dtype)) for w in weights(a))
    stored = _stored(ck.stored, ck.dropped, len(ck.files))
    warnings = list(ck.conflicts)
    if ck.kv_copies > 1:
        kv = sum(v.nbytes for n, v in ck.values.items() if ".k." in n or ".v." in n)
        warnings.append(
            f"the files hold each key-value head {ck.kv_copies} times, for {ck.shards} ranks: "
            f"{nbytes(kv * (ck.kv_copies - 1))} of copies; one copy is counted"
        )
    notes = list(ck.notes)
    if spec.tied and "head.weight" in ck.values:
        twice = nbytes(ck.values["head.weight"].nbytes)
        notes.append(f"the head is the embedding, and stored twice: {twice} more in the files")
    if ck.dropped:
        notes.append(f"{count(len(ck.dropped), 'buffer')} in the files that are no weights")
    return Subject(
        "checkpoint", source, identity.title,
        identity.official.key if identity.official else None,
        a, of_dtype(ck.dtype), every, stored, None, tuple(warnings), tuple(notes),
    )  # fmt: skip


def _config_of(folder: Folder) -> tuple[str, dict[str, object]] | None:
    return next(((n, folder.json(n)) for n in _CONFIGS if n in folder.names), None)


def _config_without_weights(path: Path) -> Subject | None:
    """A folder that holds a config and no weights; None where it holds something else."""
    folder = scan(path)
    config = _config_of(folder)
    if config is None or folder.chosen or weight_files(folder.names) or folder.rejected:
        return None
    found = _described(str(path), read_config_file(*config))
    return replace(found, notes=(*found.notes, f"no weights in the folder: by {config[0]} alone"))


def _unconverted(path: Path, source: str, refusal: Unsupported) -> Subject:
    """A checkpoint that is not converted: sizes from its config, bytes from its headers."""
    try:
        folder = scan(path)
        config = _config_of(folder)
        names = folder.weights
    except BadInput:
        raise refusal from None
    if config is None:
        raise refusal
    try:
        described = read_config_file(*config)
    except Unsupported:
        raise refusal from None
    tensors: list[StoredTensor] = []
    for name in names:
        container = open_container(folder.path / name)
        tensors += container.tensors.values()
        container.file.close()
    return _by_headers(_described(source, replace(described, quantised=None)), tensors, len(names),
                       described.quantised)  # fmt: skip


_PACKED = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})


def _by_headers(
    s: Subject, tensors: list[StoredTensor], files: int, quantised: str | None
) -> Subject:
    stored = _stored(tensors, (), files)
    expected = sum(w.numel for w in s.weights)
    main = Counter({name: size for name, (_, size) in stored.by_dtype.items()})
    dtype = max(tensors, key=lambda t: main[t.dtype.name]).dtype if tensors else None
    warnings = list(s.warnings)
    packed = [t for t in tensors if t.dtype.name in _PACKED]
    explained = stored.elements == expected and not packed and len(stored.by_dtype) == 1
    if packed:
        kinds = ", ".join(sorted({t.dtype.name for t in packed}))
        how = f" ({quantised})" if quantised else ""
        warnings.append(
            f"packed integer weights{how}: {count(len(packed), 'tensor')} of {kinds}; parameters "
            "are counted by the config, bytes by the files"
        )
    elif quantised:
        warnings.append(
            f"quantised weights ({quantised}): parameters are counted by the config, bytes by the "
            f"files ({listing(sorted(stored.by_dtype))})"
        )
    elif stored.elements != expected:
        warnings.append(
            f"the tensors hold {stored.elements:,} elements, the config makes {expected:,} "
            "parameters: the tensors are believed for bytes "
            f"({listing(sorted(stored.by_dtype))})"
        )
    loose = None if explained else "the bytes of the files, divided as the model's weights are"
    fmt = of_dtype(dtype) if dtype and explained else s.format
    every = tuple(replace(w, format=fmt) for w in s.weights)
    note = "a kind that is not converted; its memory is known all the same"
    return replace(
        s, kind="checkpoint", format=fmt, weights=every, stored=stored, loose=loose,
        warnings=tuple(warnings), notes=(*s.notes, note),
    )  # fmt: skip
