"""A folder's tensors under their native names, before anyone asks what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llamatools.containers.base import Container, InputFile, StoredTensor
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput
from llamatools.family.refuse import refuse_tensors
from llamatools.layouts.join import Copies
from llamatools.opening.folder import Folder
from llamatools.opening.weightfiles import is_ranked
from llamatools.text import listing, safe


@dataclass(frozen=True)
class NativeTensors:
    """What the weight files hold. With model-parallel files, one copy per rank and name."""

    files: tuple[InputFile, ...]
    container: str
    tensors: Mapping[str, Copies]
    notes: tuple[str, ...]

    @property
    def shards(self) -> int:
        return max((len(copies) for copies in self.tensors.values()), default=1)

    def close(self) -> None:
        for f in self.files:
            f.close()


def read_native(folder: Folder) -> NativeTensors:
    """Read the headers of every weight file of a folder."""
    index = folder.index if folder.chosen is None else None
    containers: list[Container] = []
    try:
        containers += (open_container(folder.open(name)) for name in folder.weights)
        refuse_tensors(t for c in containers for t in c.tensors.values())
        kinds = sorted({c.kind for c in containers})
        if len(kinds) > 1:
            raise BadInput(f"{safe(folder.path)}: weight files of several kinds: {listing(kinds)}")
        parallel = len(containers) > 1 and is_ranked(containers[0].file.name)
        tensors = _by_rank(containers) if parallel else _union(containers)
        notes = _check_index(index, tensors) if index else ()
        unread = folder.unread_weights()
        if unread:
            notes = (*notes, f"weight files that were not read: {listing(unread)}")
    except BaseException:
        for c in containers:
            c.file.close()
        raise
    return NativeTensors(tuple(c.file for c in containers), kinds[0], tensors, notes)


def _by_rank(containers: Iterable[Container]) -> Mapping[str, Copies]:
    """Ranks hold the same names; BadInput says which file lacks what."""
    ranks = list(containers)
    every = dict.fromkeys(name for c in ranks for name in c.tensors)
    problems = []
    for c in ranks:
        lacking = [n for n in every if n not in c.tensors]
        if lacking:
            problems.append(f"{safe(c.file.path)}: lacks what other ranks hold: {listing(lacking)}")
    if problems:
        raise BadInput(problems, hint="the files do not belong to the same model")
    return {name: tuple(c.tensors[name] for c in ranks) for name in every}


def _union(containers: Iterable[Container]) -> Mapping[str, Copies]:
    """Files that each hold some of the tensors; BadInput where two hold the same name."""
    out: dict[str, StoredTensor] = {}
    twice = []
    for t in (t for c in containers for t in c.tensors.values()):
        if t.name in out:
            first = safe(out[t.name].file.name)
            twice.append(f"{safe(t.name)} is both in {first} and in {safe(t.file.name)}")
        out[t.name] = t
    if twice:
        raise BadInput(twice, hint="remove the files that do not belong to this checkpoint")
    return {name: (t,) for name, t in out.items()}


def _check_index(index: Mapping[str, str], tensors: Mapping[str, Copies]) -> tuple[str, ...]:
    """BadInput where the index and the files disagree on where a tensor is."""
    problems = []
    for name, file in index.items():
        if name not in tensors:
            problems.append(f"{safe(name)}: the index places it in {safe(file)}; it is nowhere")
        elif tensors[name][0].file.name != file:
            found = safe(tensors[name][0].file.name)
            problems.append(f"{safe(name)}: the index places it in {safe(file)}; it is in {found}")
    if problems:
        raise BadInput(problems[:20], hint="fetch the checkpoint and its index again")
    unlisted = [n for n in tensors if n not in index]
    return (f"the index does not list {listing(unlisted)}",) if unlisted else ()
