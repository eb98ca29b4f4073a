"""Python's doors to the file system: which functions there are, and what a call of one is about."""

from __future__ import annotations

import builtins
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Call:
    """One system call on a file below the folder that is watched."""

    name: str
    path: str
    """Relative to the folder that is watched; `other` is the second one, of two."""
    other: str = ""
    inode: int = 0
    offset: int = 0
    size: int = 0
    flags: int = 0
    data: bytes = b""
    failed: bool = False

    def __str__(self) -> str:
        to = f" -> {self.other}" if self.other else ""
        at = f" {self.size} bytes at {self.offset}" if self.size or self.offset else ""
        return f"{self.name} {self.path}{to}{at}"


def _names() -> dict[str, tuple[str, ...]]:
    """Kinds of calls, and the functions of `os` that make them."""
    return {
        "open": ("open",),
        "close": ("close",),
        "read": ("read", "readv", "pread", "preadv"),
        "write": ("write", "writev", "pwrite", "pwritev"),
        "fsync": ("fsync", "fdatasync"),
        "allocate": ("posix_fallocate",),
        "truncate": ("truncate", "ftruncate"),
        "rename": ("rename", "replace"),
        "link": ("link", "symlink"),
        "mkdir": ("mkdir",),
        "unlink": ("unlink", "remove"),
        "rmdir": ("rmdir",),
        "look": ("stat", "lstat", "fstat", "statvfs", "listdir", "scandir", "access", "readlink"),
        "attribute": ("chmod", "fchmod", "utime", "chown"),
    }


def functions() -> dict[Callable[..., Any], str]:
    """Every function there is of them -> the kind of call that it makes."""
    out: dict[Callable[..., Any], str] = {
        getattr(os, f): kind for kind, fs in _names().items() for f in fs if hasattr(os, f)
    }
    return out | {fcntl.flock: "lock", fcntl.lockf: "lock"}


def holders() -> Iterator[ModuleType | type]:
    """Modules, and one old class, that may have such a function under a name of theirs."""
    plain = ("os", "io", "shutil", "pathlib", "tempfile", "fcntl", "glob")
    for name, module in list(sys.modules.items()):
        if name in plain or name.split(".")[0] == "llamatools":
            yield module
    yield builtins
    accessor = getattr(sys.modules["pathlib"], "_NormalAccessor", None)  # until Python 3.10
    if accessor is not None:
        yield accessor


def is_one_of(value: object, wanted: Set[Callable[..., Any]]) -> bool:
    try:
        return callable(value) and value in wanted
    except TypeError:  # not hashable
        return False


_readlink = os.readlink
_fstat = os.fstat
_seek = os.lseek


def _path(at: Any, dir_fd: int | None) -> str:
    if isinstance(at, int):
        return _fd_path(at)
    path = os.fsdecode(at)
    base = Path.cwd() if dir_fd is None else Path(_fd_path(dir_fd))
    return os.path.normpath(base / path)


def _fd_path(fd: int) -> str:
    try:
        return _readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
    except OSError:
        return ""


Describe = Callable[[str, tuple[Any, ...], dict[str, Any]], "Call | None"]


def _by_path(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    at = args[0] if args else kwargs.get("path", ".")
    flags = args[1] if name == "open" and len(args) > 1 else 0
    return Call(name, _path(at, kwargs.get("dir_fd")), flags=flags)


def _by_two(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    old, new = _path(args[0], kwargs.get("src_dir_fd")), _path(args[1], kwargs.get("dst_dir_fd"))
    return Call(name, old, new)


def _by_fd(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    fd = args[0] if isinstance(args[0], int) else args[0].fileno()
    path = _fd_path(fd)
    if not path:
        return None
    return Call(name, path, inode=_fstat(fd).st_ino)


def _by_place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """Reads, writes and sizes: (fd, data or size[, offset])."""
    if not isinstance(args[0], int):  # truncate by path
        return replace(_by_path(name, args, kwargs) or Call(name, ""), offset=args[1])
    call = _by_fd(name, args, kwargs)
    if call is None or name == "truncate":
        return call and replace(call, offset=args[1])
    if name == "allocate":
        return replace(call, offset=args[1], size=args[2])
    call = replace(call, size=_size(args[1]))
    if len(args) > 2:
        return replace(call, offset=args[2])
    try:
        return replace(call, offset=_seek(args[0], 0, os.SEEK_CUR))
    except OSError:  # a pipe
        return None


DESCRIBE: dict[str, Describe] = {
    "open": _by_path, "mkdir": _by_path, "unlink": _by_path, "rmdir": _by_path, "look": _by_path,
    "attribute": _by_path, "rename": _by_two, "link": _by_two, "close": _by_fd, "fsync": _by_fd,
    "lock": _by_fd, "read": _by_place, "write": _by_place, "allocate": _by_place,
    "truncate": _by_place,
}  # fmt: skip


def cut(args: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """The arguments of a read or write that asks for no more than so many bytes."""
    what = args[1]
    if isinstance(what, int):
        cut: Any = min(what, size)
    elif isinstance(what, (list, tuple)):
        cut = [memoryview(what[0]).cast("B")[:size]]
    else:
        cut = memoryview(what).cast("B")[:size]
    return (args[0], cut, *args[2:])


def _size(what: Any) -> int:
    if isinstance(what, int):
        return what
    parts = what if isinstance(what, (list, tuple)) else [what]
    return sum(memoryview(p).nbytes for p in parts)


def bytes_of(args: tuple[Any, ...], done: int) -> bytes:
    what = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    return b"".join(bytes(memoryview(w).cast("B")) for w in what)[:done]
