"""A checkpoint's folder as a subject: by its headers, or by its config where it has no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.containers.base import StoredTensor
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput, Unsupported
from llamatools.hub.held import HeldFolder
from llamatools.layouts import hf_config, meta_config
from llamatools.memory.architecture import dense
from llamatools.memory.config import read_config_file
from llamatools.memory.formats import of_dtype
from llamatools.memory.parameters import weights
from llamatools.memory.subject import Stored, Subject, described
from llamatools.opening.folder import Folder
from llamatools.opening.weightfiles import SCHEMES, weight_files
from llamatools.text import count, listing, nbytes, safe

_CONFIGS = (hf_config.NAME, meta_config.NAME)


def of_folder(folder: Folder, source: str) -> Subject:
    try:
        opened = open_checkpoint(folder, probe=False)
    except Unsupported as refusal:
        return _unconverted(folder, source, refusal)
    except BadInput:
        bare = _config_without_weights(folder, source)
        if bare is None:
            raise
        return bare
    with opened:
        return _opened(source, opened)


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


def config_of(folder: Folder) -> tuple[str, dict[str, object]] | None:
    return next(((n, folder.json(n)) for n in _CONFIGS if n in folder.names), None)


def _config_without_weights(folder: Folder, source: str) -> Subject | None:
    """A folder that holds a config and no weights; None where it holds something else."""
    config = config_of(folder)
    if config is None or folder.chosen or weight_files(folder.names) or folder.rejected:
        return None
    if isinstance(folder, HeldFolder) and any(s.index in folder.names for s in SCHEMES):
        return None  # a folder may have been copied without its weights; a repository was not
    found = described(source, read_config_file(*config))
    where, loose = "folder", found.loose
    if isinstance(folder, HeldFolder):
        where = "cache" if folder.cache else "repository"
        if folder.elsewhere:
            where += f" but in {listing(folder.elsewhere)}"
        if folder.cache or folder.elsewhere:  # there are weights, perhaps in another type
            loose = loose or f"{config[0]} alone, in {found.format.name}: no weights in the {where}"
    note = f"no weights in the {where}: by {config[0]} alone"
    return replace(found, loose=loose, notes=(*found.notes, note))


def _unconverted(folder: Folder, source: str, refusal: Unsupported) -> Subject:
    """A checkpoint that is not converted: sizes from its config, bytes from its headers."""
    try:
        config = config_of(folder)
        names = folder.weights
    except BadInput:
        raise refusal from None
    if config is None:
        raise refusal
    try:
        found = read_config_file(*config)
    except Unsupported:
        raise refusal from None
    tensors: list[StoredTensor] = []
    for name in names:
        container = open_container(folder.open(name))
        tensors += container.tensors.values()
        container.file.close()
    s = _by_headers(described(source, replace(found, quantised=None)), tensors, len(names),
                    found.quantised)  # fmt: skip
    scales = [n for n in folder.names if n.startswith("fp8_scales_")]
    if scales:
        beside = f"{count(len(scales), 'file')} of scales beside the weights, which are not counted"
        s = replace(s, notes=(*s.notes, beside))
    return s


_ALIKE = (0.5, 1.5)
"""Elements of the files as parts of what a config makes: beyond, the two do not belong together.
Within, files may hold buffers, copies, or an encoder that is not known."""
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
    uncounted = None
    explained = stored.elements == expected and not packed and len(stored.by_dtype) == 1
    if packed:
        kinds = ", ".join(sorted({t.dtype.name for t in packed}))
        how = f" ({quantised})" if quantised else ""
        warnings.append(
            f"packed integer weights{how}: {count(len(packed), 'tensor')} of {kinds}; parameters "
            "are counted by the config, bytes by the files"
        )
    elif quantised or any(t.dtype.name.startswith("F8") for t in tensors):
        warnings.append(
            f"quantised weights ({quantised or 'FP8'}): parameters are counted by the config, "
            f"bytes by the files ({listing(sorted(stored.by_dtype))})"
        )
    elif stored.elements != expected:
        if not _ALIKE[0] * expected <= stored.elements <= _ALIKE[1] * expected:
            raise BadInput(
                f"{safe(s.name)}: the tensors hold {stored.elements:,} elements, and the config "
                f"makes {expected:,} parameters",
                hint="a file is missing, or the config belongs to another model",
            )
        uncounted = f"by the config; the tensors hold {stored.elements:,} elements"
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
        uncounted=uncounted, warnings=tuple(warnings), notes=(*s.notes, note),
    )  # fmt: skip
