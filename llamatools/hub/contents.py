"""Which of a repository's files tell of its checkpoint, and what was found by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llamatools.errors import BadInput
from llamatools.hub.held import HeldFolder
from llamatools.hub.name import RepositoryName
from llamatools.layouts import hf_config, meta_config
from llamatools.opening.folder import Folder
from llamatools.opening.weightfiles import SCHEMES, weight_files

CONFIGS = (hf_config.NAME, meta_config.NAME)
FOLDERS = ("", "original/")
"""Where a checkpoint may lie: beside the model card, or where Meta's own files are kept."""


@dataclass(frozen=True)
class Source:
    """A file that the answer rests on."""

    name: str
    size: int | None
    cached: bool


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: RepositoryName
    host: str
    commit: str
    folder: HeldFolder
    sources: tuple[Source, ...]
    requests: int
    """That were made; where they were redirected is not counted."""
    nbytes: int
    """Of answers' bodies, as far as they were read."""
    offline: bool = False

    def report(self) -> dict[str, object]:
        """What a report says of where it is from."""
        return {
            "repository": self.name.id,
            "revision": self.name.revision,
            "commit": self.commit,
            "host": self.host,
            "requests": self.requests,
            "bytes": self.nbytes,
            "files": [{"name": s.name, "bytes": s.size, "cached": s.cached} for s in self.sources],
        }


def where(names: Iterable[str]) -> str:
    """The folder that the checkpoint lies in."""
    known = set(names)
    for at in FOLDERS:
        here = [n.removeprefix(at) for n in known if n.startswith(at)]
        if weight_files(here) or any(c in here for c in CONFIGS):
            return at
    return FOLDERS[0]


def documents(names: frozenset[str]) -> list[str]:
    """The JSON files that tell the model's sizes, and where its tensors are."""
    found = [n for n in CONFIGS if n in names]
    for scheme in SCHEMES:
        if scheme.plain in names:
            break
        if scheme.index in names:
            return [*found, scheme.index]
        if scheme.members(names):
            break
    return found


def weights_of(folder: Folder) -> tuple[str, ...]:
    """The weight files. What is wrong about them is said by whoever opens the folder."""
    try:
        return folder.weights
    except BadInput:
        return ()
