"""What a repository holds at one commit, as its hub lists it. Every request names that commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.containers.numbers import is_size
from llamatools.errors import BadInput
from llamatools.hub.library import listing_url
from llamatools.hub.refusals import Place
from llamatools.hub.wire import Wire
from llamatools.jsonio import load_json_object
from llamatools.opening.weightfiles import ENDINGS

MOST_BYTES = 64_000_000
"""Of a listing, and of any other JSON: 200,000 files have less."""

_COMMIT = re.compile(r"[0-9a-zA-Z]{1,64}")
_FILE = re.compile(r"(original/)?[^/\\]{1,200}")
"""Of a repository's folders only Meta's copy is looked into."""


@dataclass(frozen=True)
class Listing:
    """The files of a commit."""

    commit: str
    sizes: Mapping[str, int | None]
    """File name -> bytes, where they are told. Only files that may belong to a checkpoint."""
    elsewhere: tuple[str, ...] = ()
    """Folders beyond those, which hold weights."""


def fetch_listing(wire: Wire) -> Listing:
    """One request. BadInput or IOFailed where there is none, or none that can be read."""
    place = wire.place
    url = listing_url(place.settings.endpoint, place.name)
    data = wire.whole(url, None, MOST_BYTES, place.settings.etag_timeout)
    return read_listing(place, data)


def read_listing(place: Place, data: bytes) -> Listing:
    try:
        found = load_json_object(data, place.at(), max_bytes=MOST_BYTES)
    except BadInput as e:
        raise place.failed(
            None, f"answers what is no listing of a repository: {e}", "is HF_ENDPOINT a hub?"
        ) from None
    commit, files = found.get("sha"), found.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(files, list):
        raise place.failed(
            None,
            "answers a listing without a commit (sha) or files (siblings)",
            "is HF_ENDPOINT a hub?",
        )
    entries = [_entry(f) for f in files if isinstance(f, dict)]
    beyond = (name.rpartition("/") for name, _ in entries if not _belongs(name))
    elsewhere = {at for at, _, name in beyond if at and name.endswith(ENDINGS)}
    sizes = {name: size for name, size in entries if _belongs(name)}
    return Listing(commit, sizes, tuple(sorted(elsewhere)))


def _entry(file: Mapping[str, object]) -> tuple[str, int | None]:
    lfs = file.get("lfs")
    size = file.get("size", lfs.get("size") if isinstance(lfs, dict) else None)
    return str(file.get("rfilename", "")), size if is_size(size) else None


def _belongs(name: str) -> bool:
    """A plain name that may be asked for; nothing that leads elsewhere."""
    plain = name.removeprefix("original/")
    return bool(_FILE.fullmatch(name)) and name.isprintable() and plain not in ("", ".", "..")
