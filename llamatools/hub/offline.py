"""Offline: what the hub's cache has of a repository, which may be all of it."""

from __future__ import annotations

from pathlib import Path

from llamatools.errors import BadInput, IOFailed
from llamatools.hub.contents import CONFIGS, FOLDERS, Repository, Source, documents
from llamatools.hub.header import HeldFile
from llamatools.hub.held import HeldFolder
from llamatools.hub.library import Settings, cached
from llamatools.hub.name import DEFAULT_REVISION, RepositoryName
from llamatools.opening.folder import scan
from llamatools.opening.weightfiles import SCHEMES, weight_files
from llamatools.text import safe


def from_cache(name: RepositoryName, s: Settings) -> Repository:
    """Offline: what the cache has of a repository, which may be all of it."""
    for at in FOLDERS:
        for config in CONFIGS:
            found = cached(name, name.revision, at + config)
            if found is not None:
                return _cached_snapshot(name, s, found.parent, at)
    raise IOFailed(
        f"{safe(name)}: no such file or folder here; HF_HUB_OFFLINE is set, and the cache "
        f"{safe(s.cache)} holds no config of it",
        hint=f"unset HF_HUB_OFFLINE, or fetch it while online: {_download(name)}",
    )


def _download(name: RepositoryName) -> str:
    revision = "" if name.revision == DEFAULT_REVISION else f" --revision {safe(name.revision)}"
    return f"hf download {safe(name.id)}{revision}"


def _cached_snapshot(name: RepositoryName, s: Settings, snapshot: Path, at: str) -> Repository:
    seen = scan(snapshot)
    files: dict[str, HeldFile | Path] = {n: snapshot / n for n in seen.names}
    folder = HeldFolder(Path(str(name)) / at, seen.names, seen.rejected, files=files, cache=True)
    try:
        weights = folder.weights
    except BadInput as e:
        if weight_files(seen.names) or any(x.index in seen.names for x in SCHEMES):
            raise IOFailed(
                [f"HF_HUB_OFFLINE is set, and the cache does not suffice: {p}" for p in e.problems],
                hint=f"unset HF_HUB_OFFLINE, or fetch the rest: {_download(name)}",
            ) from None
        weights = ()
    commit = snapshot.parent.name if at else snapshot.name
    sources = tuple(
        Source(at + n, (snapshot / n).stat().st_size, cached=True)
        for n in (*documents(seen.names), *weights)
    )
    return Repository(name, s.host, commit, folder, sources, 0, 0, offline=True)
