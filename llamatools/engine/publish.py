"""Output appears whole or not at all: built in a sibling folder, synced, then renamed once."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamatools.containers import links
from llamatools.engine.commit import commit
from llamatools.engine.sink import io_failed
from llamatools.errors import IOFailed, OutputExists, UsageError
from llamatools.text import nbytes, safe

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def check_paths(source: Path, out: Path, *, force: bool) -> None:
    """Refuse an output that is taken, or that lies in, around or on the input."""
    src, dst = source.resolve(), out.resolve()
    home = src if src.is_dir() else src.parent
    homes = (home, *links.blobs(home))  # the hub's cache keeps the files themselves elsewhere
    if any(dst == h or h in dst.parents or dst in (*h.parents, src) for h in homes):
        raise UsageError(
            f"the output {safe(out)} is the input, or lies inside or around it",
            hint="choose an output folder beside the input",
        )
    check_output(out, force=force)


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that is taken, or that has no place to be."""
    _check_place(out, force=force)
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
        raise OutputExists(f"{safe(out)} is not a folder, and is not replaced")


def check_file(out: Path, *, force: bool) -> None:
    """The same for an output that is one file."""
    _check_place(out, force=force)
    if os.path.lexists(out) and (out.is_symlink() or not out.is_file()):
        raise OutputExists(f"{safe(out)} is not a plain file, and is not replaced")


def _check_place(out: Path, *, force: bool) -> None:
    if not out.name:
        raise UsageError(
            f"{safe(out)}: the current folder cannot be the output",
            hint="give the output folder a name",
        )
    if not out.parent.resolve().is_dir():
        raise UsageError(f"{safe(out.parent)}: no such folder to put the output in")
    longest = os.pathconf(out.parent.resolve(), "PC_NAME_MAX")
    if len(os.fsencode(out.name)) > longest:
        raise UsageError(f"{safe(out)}: a name of more than {longest} bytes")
    if os.path.lexists(out) and not force:
        raise OutputExists(f"{safe(out)} exists already", hint="choose another name, or --force")


def free_bytes(out: Path) -> int:
    """Space that the file system of `out` has for us."""
    info = os.statvfs(out.parent.resolve())
    return info.f_bavail * info.f_frsize


def check_space(out: Path, needed: int) -> None:
    """IOFailed where the output would not fit."""
    free = free_bytes(out)
    if needed > free:
        raise IOFailed(
            f"{safe(out.parent.resolve())}: {nbytes(needed)} are needed, {nbytes(free)} are free",
            hint="free space or choose another disk",
        )


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out`, removed with all it holds unless it was published."""
    parent = out.parent.resolve()
    # Cut, since a name may have 255 bytes at most.
    name = os.fsdecode(os.fsencode(out.name)[:200])
    folder = parent / f".{name}.llamatools-{secrets.token_hex(4)}"
    try:
        try:
            folder.mkdir()
        except OSError as e:
            raise io_failed(folder, "creating the folder", e) from e
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_document(path: Path, data: bytes) -> None:
    """A small file, whole and synced."""
    try:
        with path.open("xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise io_failed(path, "writing", e) from e


def publish(folder: Path, out: Path, *, force: bool) -> None:
    """Give a finished staging folder its name, in one step, and make that durable."""
    _sync_folder(folder)
    commit()
    target = _resolved(out)
    if force and os.path.lexists(target):
        # Afterwards the staging folder holds the old output, and is removed with it.
        if not _rename(folder, target, _RENAME_EXCHANGE):
            _replace_in_two_steps(folder, target)
    else:
        _place(folder, target)
    _sync_folder(target.parent)


def publish_file(file: Path, out: Path, *, force: bool = False) -> None:
    """Give a finished file in a staging folder its name; by force, in place of a plain file."""
    commit()
    target = _resolved(out)
    if force:
        _replace(file, target)
    else:
        _place(file, target)
    _sync_folder(target.parent)


def _resolved(out: Path) -> Path:
    """The name itself is kept: of a link, it is the link's."""
    return out.parent.resolve() / out.name


def _place(new: Path, target: Path) -> None:
    """Rename to a name that must be free."""
    if not _rename(new, target, _RENAME_NOREPLACE):
        if os.path.lexists(target):
            raise OutputExists(f"{safe(target)} exists already", hint="choose another name")
        new.rename(target)


def _replace(file: Path, target: Path) -> None:
    """Rename over a plain file, or to a free name: one step on every file system."""
    if os.path.lexists(target) and (target.is_symlink() or not target.is_file()):
        raise OutputExists(f"{safe(target)} is not a plain file, and is not replaced")
    try:
        file.replace(target)
    except OSError as e:
        raise io_failed(target, "renaming the finished output", e) from e


def _replace_in_two_steps(folder: Path, target: Path) -> None:
    """For file systems that cannot exchange two names: there is a moment without output."""
    old = folder.with_name(folder.name + ".old")
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _rename(old: Path, new: Path, flag: int) -> bool:
    """renameat2; False where the system or the file system does not know the flag."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    if code == errno.EEXIST:
        raise OutputExists(f"{safe(new)} exists already", hint="choose another name")
    raise io_failed(new, "renaming the finished output", OSError(code, os.strerror(code)))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as e:
        raise io_failed(folder, "fsync", e) from e
    finally:
        os.close(fd)
