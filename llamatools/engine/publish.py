"""Output appears whole or not at all: built in a sibling folder, synced, then renamed once."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    if any(dst == h or h in dst.parents or dst in (*h.parents, src) for h in _homes(src)):
        raise UsageError(
            f"the output {safe(out)} is the input, or lies inside or around it",
            hint="choose an output folder beside the input",
        )
    check_output(out, force=force)


def _homes(source: Path) -> tuple[Path, ...]:
    """The folders that a checkpoint is read from; `source` is resolved."""
    home = source.parent if source.is_file() else source
    return home, *links.blobs(home)  # the hub's cache keeps the files themselves elsewhere


def check_apart(
    outputs: Sequence[Path], *, models: Iterable[Path] = (), files: Iterable[Path] = ()
) -> None:
    """Refuse outputs of one file each that would cost an input, or each other.

    None may lie where a checkpoint of `models` is read from, or be one of the other `files` that
    are read, by whatever name: through links, as a hard link, in another spelling.
    """
    homes = [h for m in models for h in _homes(Path(os.path.realpath(m)))]
    read = _identities([*files, *(f for h in homes for f in _entries(h))])
    folders = _identities(homes)
    problems, names = [], []
    for out in outputs:
        names.append(_identities([out]))
        if names[-1] & read:
            problems.append(f"the output {safe(out)} is an input")
        elif _identities([out, *Path(os.path.realpath(out)).parents]) & folders:
            problems.append(f"the output {safe(out)} lies in a folder that a model is read from")
        elif any(names[-1] & other for other in names[:-1]):
            problems.append(f"the output {safe(out)} is another output, too")
    if problems:
        raise UsageError(problems, hint="write it elsewhere")


def check_kept(out: Path, files: Iterable[Path]) -> None:
    """Refuse an output folder that holds, as it is now, one of the other `files` that are read."""
    place = _identities([out])
    lost = [f for f in files if place & _identities([f, *Path(os.path.realpath(f)).parents])]
    if lost:
        raise UsageError([f"{safe(f)} lies in the output, which is replaced" for f in lost])


def _identities(paths: Iterable[Path]) -> set[object]:
    """Of each, where it lies and, if it is there, what it is: equal for all names of a file."""
    out: set[object] = set()
    for path in paths:
        out.add(os.path.realpath(path))
        with suppress(OSError):
            info = path.stat()
            out.add((info.st_dev, info.st_ino))
    return out


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # none, or none that can be read: who opens it says so
        return []


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that is taken, or that has no place to be."""
    _check_place(out, force=force)
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
        raise OutputExists(f"{safe(out)} is not a folder, and is not replaced")


def check_file(out: Path, *, force: bool) -> None:
    """The same for an output that is one file, and may be written after hours."""
    _check_place(out, force=force)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise IOFailed(f"{safe(out.parent)}: nothing can be written there")
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


def publish_file(file: Path, out: Path, *, force: bool = False, stands: bool = True) -> None:
    """Give a finished file in a staging folder its name; by force, in place of a plain file.

    Where it does not stand, because another will take its place, the run may still be stopped.
    """
    if stands:
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
