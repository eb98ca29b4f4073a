"""A repository of a hub, opened as a folder: its configs, and the headers of its weights.

One request lists the files of a commit, one fetches each config or index, and one the header of
each safetensors file, several at once. Nothing is asked for that the listing does not name, what
the hub's cache holds is read there, and nothing is written anywhere.
"""

from __future__ import annotations

from pathlib import Path

from llamatools.errors import BadInput
from llamatools.hub.contents import Repository, Source, documents, weights_of, where
from llamatools.hub.fetching import SILENT, Asking, Fetch
from llamatools.hub.header import HeldFile
from llamatools.hub.held import HeldFolder
from llamatools.hub.library import settings
from llamatools.hub.listing import Listing, fetch_listing
from llamatools.hub.name import RepositoryName
from llamatools.hub.offline import from_cache
from llamatools.hub.parallel import in_parallel
from llamatools.hub.refusals import Place
from llamatools.hub.wire import Wire
from llamatools.opening.weightfiles import ENDINGS

MOST_FILES = 2000
"""Weight files; the largest models are in a few hundred."""


def open_repository(name: RepositoryName, asking: Asking = SILENT) -> Repository:
    """Configs and headers of a repository.

    Raises BadInput where there is no such repository, revision, or right to read it; IOFailed
    where the hub or the way there fails.
    """
    s = settings()
    if s.offline:
        return from_cache(name, s)
    wire = Wire.to(lambda with_token: Place(name, s, with_token))
    place = wire.place
    token = ", with your token" if place.with_token else ""
    asking.tell(
        f"{place.at()}: not a file or folder here; asking {place.host} for configs and headers"
        f"{token}"
    )
    try:
        [(_, listing)] = in_parallel(lambda _: fetch_listing(wire), [None], wire.check_alive)
        return _opened(wire, listing, asking)
    finally:
        wire.close()


def _opened(wire: Wire, listing: Listing, asking: Asking) -> Repository:
    place = wire.place
    at = where(listing.sizes)
    names = frozenset(n.removeprefix(at) for n in listing.sizes if n.startswith(at))
    names = frozenset(n for n in names if "/" not in n)
    if sum(n.endswith(ENDINGS) for n in names) > MOST_FILES:
        raise BadInput(f"{place.at()}: more than {MOST_FILES:,} weight files")
    path = Path(str(place.name)) / at
    files: dict[str, HeldFile | Path] = {}  # what is added later, the folder has as well
    fetch = Fetch(wire, listing, at, path)
    for found in in_parallel(fetch.document, documents(names), wire.check_alive):
        files.update([found])
    folder = HeldFolder(path, names, frozenset(), files=files, elsewhere=listing.elsewhere)
    weights = weights_of(folder)
    files |= fetch.cached(weights)
    missing = [n for n in weights if n not in files]
    if weights and all(n.endswith(".safetensors") for n in weights):
        files |= fetch.headers(folder, missing, asking)
    sources = tuple(
        Source(at + n, fetch.size(n, files.get(n)), isinstance(files.get(n), Path))
        for n in dict.fromkeys((*documents(names), *weights))
    )
    return Repository(
        place.name, place.host, listing.commit, folder, sources, wire.requests, wire.nbytes
    )
