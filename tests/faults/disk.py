"""What a disk may hold after the power failed: the calls of a run, replayed as far as they count.

A file system owes us what was synced, and nothing else. Of a file: its bytes when fsync last
succeeded; what was written since may be there, or not, or in part, or as zeros. Of a folder: its
entries when it was last synced; later ones may each be there or not, though a rename is one step.
After an fsync that failed, what it should have written counts as lost for good, as on Linux, where
the next fsync says that all is well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from diskfiles import LOSSES, File, Folder, Node, Step, enter, settle
from doors import Call

Contents = dict[str, bytes]
"""Files below a folder by name; an empty folder has a slash behind its name."""

_CHANGES = frozenset(
    ("open", "write", "fsync", "allocate", "truncate", "rename", "exchange", "link", "mkdir",
     "unlink", "rmdir")
)  # fmt: skip


class Disk:
    """A folder with files that are safely on disk, and calls that change it."""

    def __init__(self, first: Contents, prefix: str) -> None:
        self._prefix = prefix
        self._top = Folder()
        self._steps: list[Step] = []
        self._by_inode: dict[int, Node] = {}
        for name, data in first.items():
            *folders, last = name.rstrip("/").split("/")
            at = self._top
            for f in folders:
                below = at.entries.setdefault(f, Folder())
                assert isinstance(below, Folder)
                at = below
            at.entries[last] = Folder() if name.endswith("/") else File(data, [], data)
        settle(self._top)

    def see(self, call: Call) -> bool:
        """Take part in a call; False where that changes nothing."""
        if call.name not in _CHANGES or (call.failed and call.name != "fsync"):
            return False
        if not (call.path + "/").startswith(self._prefix + "/"):
            return False
        getattr(self, "_" + call.name)(call)
        return True

    # --- calls

    def _open(self, call: Call) -> None:
        at = self._find(call.path)
        if at is None and call.flags & os.O_CREAT:
            at = File()
            self._step((*self._place(call.path), at))
        if isinstance(at, File) and call.flags & os.O_TRUNC:
            at.cut(0)
        if at is not None:
            self._by_inode[call.inode] = at

    def _write(self, call: Call) -> None:
        self._file(call).change(call.offset, call.data)

    def _allocate(self, call: Call) -> None:
        file = self._file(call)
        if call.offset + call.size > len(file.live):
            file.change(call.offset + call.size, b"")

    def _truncate(self, call: Call) -> None:
        self._file(call).cut(call.offset)

    def _fsync(self, call: Call) -> None:
        at = self._by_inode[call.inode]
        if isinstance(at, File):
            at.sync(failed=call.failed)
        elif not call.failed:
            for step in self._steps:
                step.synced |= any(folder is at for folder, _, _ in step.entries)

    def _mkdir(self, call: Call) -> None:
        self._step((*self._place(call.path), Folder()))

    def _unlink(self, call: Call) -> None:
        self._step((*self._place(call.path), None))

    _rmdir = _unlink

    def _link(self, call: Call) -> None:
        self._step((*self._place(call.other), self._find(call.path)))

    def _rename(self, call: Call) -> None:
        node = self._find(call.path)
        self._step((*self._place(call.path), None), (*self._place(call.other), node))

    def _exchange(self, call: Call) -> None:
        one, two = self._find(call.path), self._find(call.other)
        self._step((*self._place(call.path), two), (*self._place(call.other), one))

    # --- the tree

    def _place(self, path: str) -> tuple[Folder, str]:
        *folders, last = path.split("/")
        folder = self._find("/".join(folders))
        assert isinstance(folder, Folder), path
        return folder, last

    def _find(self, path: str) -> Node | None:
        at: Node | None = self._top
        for name in path[len(self._prefix) + 1 :].split("/"):
            if name:
                assert isinstance(at, Folder), path
                at = at.entries.get(name)
        return at

    def _file(self, call: Call) -> File:
        file = self._by_inode.get(call.inode) if call.inode else self._find(call.path)
        assert isinstance(file, File), call
        return file

    def _step(self, *entries: tuple[Folder, str, Node | None]) -> None:
        self._steps.append(Step(list(entries)))
        for folder, name, node in entries:
            enter(folder.entries, name, node)

    # --- what may be left

    def now(self) -> Contents:
        """What programs see, and what a killed process leaves."""
        return self._build(self._steps, lambda file: "kept")

    def after_power_loss(self) -> Iterator[tuple[str, Contents]]:
        """Every way we try of losing what was not synced, each with a name."""
        open_steps = [s for s in self._steps if not s.synced]
        for name, lost in _omissions(open_steps):
            kept = [s for s in self._steps if s not in lost]
            for loss in LOSSES if name in ("nothing", "all") else ("kept", "lost"):
                made = self._build(kept, lambda file, loss=loss: loss)
                yield f"entries lost: {name}; data {loss}", made
        for i, file in enumerate(self._unsynced()):
            for loss in LOSSES[1:]:

                def of(f: File, file: File = file, loss: str = loss) -> str:
                    return loss if f is file else "kept"

                yield f"data of file {i} {loss}", self._build(self._steps, of)

    def _unsynced(self) -> list[File]:
        nodes = {id(n): n for s in self._steps for _, _, n in s.entries if isinstance(n, File)}
        nodes |= {id(n): n for n in self._by_inode.values() if isinstance(n, File)}
        return [f for f in nodes.values() if f.live != f.synced]

    def _build(self, steps: Iterable[Step], loss: object) -> Contents:
        entries: dict[int, dict[str, Node]] = {}

        def of(folder: Folder) -> dict[str, Node]:
            return entries.setdefault(id(folder), dict(folder.first))

        for step in steps:
            for folder, name, node in step.entries:
                enter(of(folder), name, node)
        out: Contents = {}

        def collect(folder: Folder, prefix: str) -> None:
            found = of(folder)
            if not found and prefix:
                out[prefix] = b""
            for name, node in found.items():
                if isinstance(node, Folder):
                    collect(node, f"{prefix}{name}/")
                else:
                    out[prefix + name] = node.after(loss(node))  # type: ignore[operator]

        collect(self._top, "")
        return out


def _omissions(steps: list[Step]) -> Iterator[tuple[str, list[Step]]]:
    """Which steps are lost: none, all, all from one on, one alone, all but one."""
    yield "nothing", []
    if steps:
        yield "all", steps
    for i, step in enumerate(steps):
        yield f"from {i} on", steps[i:]
        yield f"{i}", [step]
        yield f"all but {i}", [s for s in steps if s is not step]


def crashes(
    first: Contents, calls: Iterable[Call], prefix: str
) -> Iterator[tuple[int, str, Contents]]:
    """(calls done, what was lost, what is there) for the power failing after every call.

    The same contents come once.
    """
    disk = Disk(first, prefix)
    seen: set[int] = set()
    for done, call in enumerate([None, *calls]):
        if call is not None and not disk.see(call):
            continue
        for how, made in disk.after_power_loss():
            key = hash(tuple(sorted(made.items())))
            if key not in seen:
                seen.add(key)
                yield done, how, made


def after_all(first: Contents, calls: Iterable[Call], prefix: str) -> Disk:
    """The disk when all calls are done."""
    disk = Disk(first, prefix)
    for call in calls:
        disk.see(call)
    return disk
