"""Fetches files of one commit: JSON files whole, and the headers of weights, several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llamatools.errors import BadInput
from llamatools.hub.header import USUAL, HeldFile, fetch_header, first_bytes
from llamatools.hub.library import cached, file_url
from llamatools.hub.listing import MOST_BYTES, Listing
from llamatools.hub.parallel import in_parallel
from llamatools.hub.wire import Wire
from llamatools.opening.folder import Folder
from llamatools.text import nbytes

MOST_HEADERS = 400_000_000
"""Bytes of all headers together."""

Begin = Callable[[int], Callable[[int], None]]


def _silent(total: int) -> Callable[[int], None]:
    return lambda done: None


@dataclass(frozen=True)
class Asking:
    """How whoever asks is told what goes on."""

    tell: Callable[[str], None] = lambda text: None
    """Before the first request: who is asked."""
    progress: Callable[[], AbstractContextManager[Begin]] = lambda: nullcontext(_silent)
    """Told how many headers there are, and of each as it comes."""


SILENT = Asking()


@dataclass(frozen=True)
class Fetch:
    """Fetches files of one commit, from one folder of a repository."""

    wire: Wire
    listing: Listing
    at: str
    path: Path

    def _url(self, name: str) -> str:
        place = self.wire.place
        return file_url(place.settings.endpoint, place.name, self.listing.commit, self.at + name)

    def size(self, name: str, held: HeldFile | Path | None) -> int | None:
        if isinstance(held, HeldFile):
            return held.size
        return held.stat().st_size if held else self.listing.sizes.get(self.at + name)

    def cached(self, names: Iterable[str]) -> dict[str, HeldFile | Path]:
        found = {n: cached(self.wire.place.name, self.listing.commit, self.at + n) for n in names}
        return {n: path for n, path in found.items() if path is not None}

    def document(self, name: str) -> HeldFile | Path:
        """All of a JSON file."""
        held = self.cached([name])
        if held:
            return held[name]
        place, file = self.wire.place, self.at + name
        if (self.listing.sizes[file] or 0) > MOST_BYTES:
            raise BadInput(f"{place.at(file)}: more than the {nbytes(MOST_BYTES)} allowed")
        timeout = place.settings.download_timeout
        data = self.wire.whole(self._url(name), file, MOST_BYTES, timeout)
        return HeldFile(self.path / name, len(data), data)

    def headers(
        self, folder: Folder, names: list[str], asking: Asking
    ) -> dict[str, HeldFile | Path]:
        first = _expected(folder)
        fetch = partial(self._header, first)
        files: dict[str, HeldFile | Path] = {}
        total = 0
        with asking.progress() as begin:
            done = begin(len(names))
            for name, header in in_parallel(fetch, names, self.wire.check_alive):
                files[name] = header
                total += len(header.head)
                if total > MOST_HEADERS:
                    raise BadInput(
                        f"{self.wire.place.at()}: headers of more than {nbytes(MOST_HEADERS)}"
                    )
                done(1)
        return files

    def _header(self, first: dict[str, int], name: str) -> HeldFile:
        file = self.at + name
        return fetch_header(
            self.wire,
            self._url(name),
            file,
            self.path / name,
            first.get(name, USUAL),
            self.listing.sizes[file],
        )


def _expected(folder: Folder) -> dict[str, int]:
    """File name -> bytes that its header takes, by the tensors that the index places there."""
    tensors: dict[str, list[str]] = {}
    for tensor, file in (folder.index or {}).items():
        tensors.setdefault(file, []).append(tensor)
    return {file: first_bytes(names) for file, names in tensors.items()}
