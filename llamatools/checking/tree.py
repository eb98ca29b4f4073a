"""What lies in a folder and below it: names and kinds. Nothing is opened, no link is followed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from llamatools.containers import links
from llamatools.errors import BadInput, IOFailed
from llamatools.text import safe

_MOST = 100_000
_DEEPEST = 32
_LONGEST = 1024
"""Names that are brought into a normal form; of marks without end that takes the square."""
_APART = frozenset({".cache", ".git"})
"""Folders in a checkpoint's that are other programs' own."""


class Kind(Enum):
    """The value is the words for it where a file is expected."""

    FILE = "a file"
    BLOB = "a link of the hub's cache"
    LINK = "a link"
    FOLDER = "a folder"
    OTHER = "no file, but a pipe, a socket or a device"


@dataclass(frozen=True)
class Entry:
    """One name. `target` is where a link of the hub's cache leads to."""

    kind: Kind
    size: int = 0
    target: Path | None = None

    @property
    def readable(self) -> bool:
        return self.kind in (Kind.FILE, Kind.BLOB)


@dataclass(frozen=True)
class Tree:
    """A folder. Names have "/" between their parts, and no part of one is a link."""

    path: Path
    entries: Mapping[str, Entry]

    def files(self) -> Iterator[str]:
        """Names of everything but folders, in order."""
        return (n for n in sorted(self.entries) if self.entries[n].kind is not Kind.FOLDER)

    def spelt(self, name: str) -> str | None:
        """The one file whose name is the same text in Unicode's other form, as macOS has them."""
        if name.isascii() or len(name) > _LONGEST:
            return None
        found = self._spellings.get(unicodedata.normalize("NFC", name), ())
        return found[0] if len(found) == 1 else None

    @cached_property
    def _spellings(self) -> Mapping[str, Sequence[str]]:
        out: dict[str, list[str]] = {}
        for name in self.files():
            out.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return out


def look(path: Path) -> Tree:
    """Raises BadInput where this is no folder, or holds more than any checkpoint does."""
    try:
        if not S_ISDIR(path.stat().st_mode):
            raise BadInput(f"{safe(path)}: not a folder", hint="give the folder that it lies in")
        entries: dict[str, Entry] = {}
        for name, entry in _below(path, "", 1):
            entries[name] = entry
            if len(entries) > _MOST:
                raise BadInput(f"{safe(path)}: more than {_MOST:,} files and folders")
    except FileNotFoundError as e:
        raise BadInput(f"{safe(path)}: no such folder") from e
    except (OSError, ValueError) as e:
        raise IOFailed(f"{safe(path)}: cannot be read: {e}") from e
    return Tree(path, entries)


def _below(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Entry]]:
    if depth > _DEEPEST:
        raise BadInput(f"{safe(folder)}: folders {_DEEPEST} levels deep")
    with os.scandir(folder) as found:
        names = [e.name for e in found]
    for name in names:
        entry = _entry(folder / name)
        yield prefix + name, entry
        if entry.kind is Kind.FOLDER and not (depth == 1 and name in _APART):
            yield from _below(folder / name, f"{prefix}{name}/", depth + 1)


def _entry(path: Path) -> Entry:
    info = path.lstat()
    if S_ISREG(info.st_mode):
        return Entry(Kind.FILE, info.st_size)
    if S_ISDIR(info.st_mode):
        return Entry(Kind.FOLDER)
    if not S_ISLNK(info.st_mode):
        return Entry(Kind.OTHER)
    target = links.target(path)
    if target is None or target.parent not in links.blobs(path.parent.resolve()):
        return Entry(Kind.LINK)
    there = target.lstat()
    return Entry(Kind.BLOB, there.st_size, target) if S_ISREG(there.st_mode) else Entry(Kind.LINK)
