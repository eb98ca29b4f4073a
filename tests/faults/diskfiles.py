"""Files and folders of which some is on disk, and some is in memory alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(eq=False)
class File:
    synced: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    """(offset, data) written since, (size, None) of the file made so long: in order."""
    live: bytes = b""

    def change(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        self.live = _applied(self.live, [(offset, data)])

    def cut(self, size: int) -> None:
        """Made so long; shorter is taken to be on disk at once, which loses the most."""
        self.change(size, b"")
        if size < len(self.live):
            self.live, self.synced = self.live[:size], self.synced[:size]
            self.pending = [(at, data[: size - at]) for at, data in self.pending if at <= size]

    def sync(self, *, failed: bool) -> None:
        if not failed:
            self.synced = _applied(self.synced, self.pending)
        self.pending = []

    def after(self, loss: str) -> bytes:
        if loss == "kept":
            return self.live
        if loss == "lost" or not self.pending:
            return self.synced
        if loss == "zeros":
            return self.synced.ljust(len(self.live), b"\0")
        half = (len(self.pending) + 1) // 2
        if loss == "late":
            return _applied(self.synced, self.pending[half:])
        *whole, (at, data) = self.pending[:half]
        return _applied(self.synced, [*whole, (at, data[: len(data) // 2])])


LOSSES = ("kept", "lost", "zeros", "torn", "late")


def _applied(data: bytes, changes: Iterable[tuple[int, bytes]]) -> bytes:
    out = bytearray(data)
    for at, piece in changes:
        if len(out) < at:
            out.extend(bytes(at - len(out)))
        out[at : at + len(piece)] = piece
    return bytes(out)


@dataclass(eq=False)
class Folder:
    entries: dict[str, File | Folder] = field(default_factory=dict)
    """As all programs see them."""
    first: dict[str, File | Folder] = field(default_factory=dict)
    """Those it began with, which are on disk."""


Node = File | Folder


@dataclass(eq=False)
class Step:
    """Entries that change together: (folder, name, what it is from then on)."""

    entries: list[tuple[Folder, str, Node | None]]
    synced: bool = False


def settle(folder: Folder) -> None:
    folder.first = dict(folder.entries)
    for node in folder.entries.values():
        if isinstance(node, Folder):
            settle(node)


def enter(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node
