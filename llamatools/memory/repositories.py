"""A hub's repository as a subject: as a folder is, where its headers could be fetched."""

from __future__ import annotations

from dataclasses import replace

from llamatools.errors import BadInput
from llamatools.hub.contents import Repository
from llamatools.hub.fetching import Asking
from llamatools.hub.held import HeldFolder
from llamatools.hub.name import RepositoryName
from llamatools.hub.opening import naming
from llamatools.hub.refusals import NoRepository
from llamatools.hub.repository import open_repository
from llamatools.memory import registry
from llamatools.memory.config import read_config_file
from llamatools.memory.folders import config_of, of_folder
from llamatools.memory.subject import Subject, described
from llamatools.text import count, listing, nbytes, safe


def of_repository(name: RepositoryName, source: str, asking: Asking) -> Subject:
    with naming(name):
        return _of_repository(name, source, asking)


def _of_repository(name: RepositoryName, source: str, asking: Asking) -> Subject:
    try:
        found = open_repository(name, asking)
    except NoRepository as e:
        near = registry.alike(name.id.partition("/")[2])
        released = f"; released models need no repository: {', '.join(near)}" if near else ""
        raise NoRepository(e.problems, hint=f"{e.hint}{released}") from None
    unseen = _unseen(found.folder)
    subject = _unfetched(found, source, unseen) if unseen else of_folder(found.folder, source)
    asked = f"{count(found.requests, 'request')}, {nbytes(found.nbytes)} fetched"
    how = "offline, from the cache" if found.offline else f"{safe(found.host)}: {asked}"
    return replace(
        subject, kind="repository", origin=found.report(),
        notes=(*subject.notes, f"commit {safe(found.commit[:12])} of {safe(name.id)}, {how}"),
    )  # fmt: skip


def _unseen(folder: HeldFolder) -> tuple[str, ...]:
    """Weight files whose headers are not here."""
    try:
        return tuple(n for n in folder.weights if not folder.holds(n))
    except BadInput:
        return folder.gguf if config_of(folder) else ()


_LIKELY = (0.9, 1.3)
"""Bytes of files as parts of what a config makes: beyond, they are of another type than it says.
Files may hold copies (a tied head, key-value heads) and frames."""


def _unfetched(found: Repository, source: str, unseen: tuple[str, ...]) -> Subject:
    """Weights in files whose headers are not fetched: by the config, and the sizes as listed."""
    config = config_of(found.folder)
    if config is None:
        raise BadInput(
            f"{safe(source)}: {listing(unseen)}: no params.json or config.json beside them",
            hint="only headers of safetensors files are fetched; download the repository",
        )
    s = described(source, read_config_file(*config))
    assumed = f"{config[0]} alone, in {s.format.name}"
    if unseen == found.folder.gguf:  # often the model several times, each of its own type
        note = f"weights in GGUF ({listing(unseen, 2)}), which is not read, so by {assumed}"
        loose = s.loose or f"{assumed}: GGUF is not read"
        return replace(s, loose=loose, notes=(*s.notes, note))
    sizes = [x.size for x in found.sources if x.name.rpartition("/")[2] in unseen]
    known = sum(n for n in sizes if n is not None) if None not in sizes else None
    told = f", {nbytes(known)} by the listing" if known is not None else ""
    note = (
        f"weights in {count(len(unseen), 'file')} ({listing(unseen, 2)}){told}: only headers of "
        f"safetensors files are fetched, so by {assumed}"
    )
    expected = sum(w.nbytes for w in s.weights)
    warnings, loose = s.warnings, s.loose or f"{assumed}: no header of the files is read"
    if known and s.loose is None and not _LIKELY[0] < known / expected < _LIKELY[1]:
        warnings = (*warnings, f"the files have {nbytes(known)}, and {config[0]} makes "
                    f"{nbytes(expected)} in {s.format.name}: see --weights-dtype")  # fmt: skip
    return replace(s, loose=loose, notes=(*s.notes, note), warnings=warnings)
