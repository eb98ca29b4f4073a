"""What may be an output: a name that is free, or may be replaced, and is apart from what is read.

All of it is looked at before a run, which may take hours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from llamatools.containers import links
from llamatools.engine import rename
from llamatools.engine.newfile import io_failed
from llamatools.engine.place import is_place, place_of, refuse_taken
from llamatools.errors import IOFailed, OutputExists, UsageError
from llamatools.text import nbytes, safe

_OURS = ("llamatools.json", "llamatools-delta.json")
_MODEL = ("*.safetensors", "*.pth", "*.bin", "tokenizer.json", "tokenizer.model")
"""Where one of these is, --force takes a folder without folders for a checkpoint."""


def check_paths(source: Path, out: Path, *, force: bool) -> None:
    """Refuse an output that is taken, or that lies in, around or on the input."""
    src, dst = _found(source), _found(out)
    homes = _homes(src)
    if any(dst == h or h in dst.parents or dst in (*h.parents, src) for h in homes):
        raise UsageError(
            f"the output {safe(out)} is the input, or lies inside or around it",
            hint="choose an output folder beside the input",
        )
    check_output(out, force=force)
    if place_of(out) in (homes[0], *homes[0].parents):
        raise UsageError(
            f"the input {safe(source)} is what an interrupted run for {safe(out)} left",
            hint="run that command again to finish it, or choose another name for the output",
        )


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
    """Refuse an output folder that holds, as it is now, one of the other `files` that are read; or
    where that lies in what an earlier run left."""
    place = _identities([out, place_of(out)])
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
    check_replaceable(out)


def check_replaceable(out: Path) -> None:
    """OutputExists where the name is that of something which nobody wants replaced by a model."""
    if not rename.there(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise OutputExists(f"{safe(out)} is not a folder, and is not replaced")
    try:
        entries = list(out.iterdir())
    except OSError as e:
        raise io_failed(out, "listing the folder", e) from e
    if not entries or any((out / name).is_file() for name in _OURS):
        return
    model = any(e.match(pattern) for e in entries for pattern in _MODEL)
    hidden = any(e.name.startswith(".") for e in entries)
    if any(e.is_dir() for e in entries) or (hidden and not model):
        raise OutputExists(
            f"{safe(out)} has folders or hidden files in it and is no output of llamatools: it is "
            "not replaced",
            hint="choose another name, or remove it first",
        )


def check_file(out: Path, *, force: bool) -> None:
    """The same for an output that is one file, and may be written after hours."""
    _check_place(out, force=force)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise IOFailed(f"{safe(out.parent)}: nothing can be written there")
    if rename.there(out) and (out.is_symlink() or not out.is_file()):
        raise OutputExists(f"{safe(out)} is not a plain file, and is not replaced")


def _check_place(out: Path, *, force: bool) -> None:
    if not out.name:
        raise UsageError(
            f"{safe(out)}: the current folder cannot be the output",
            hint="give the output folder a name",
        )
    if is_place(out.name):
        raise UsageError(f"{safe(out)}: such names are those of what llamatools has not finished")
    parent = _found(out.parent)
    if not parent.is_dir():
        raise UsageError(f"{safe(out.parent)}: no such folder to put the output in")
    longest = os.pathconf(parent, "PC_NAME_MAX")
    if len(os.fsencode(out.name)) > longest:
        raise UsageError(f"{safe(out)}: a name of more than {longest} bytes")
    refuse_taken(out, force=force)


def _found(path: Path) -> Path:
    """Where a path leads."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as e:
        raise UsageError(f"{safe(path)}: leads nowhere: {safe(e)}") from e


def free_bytes(out: Path) -> int:
    """Space that the file system of `out` has for us."""
    try:
        info = os.statvfs(out.parent.resolve())
    except OSError as e:
        raise io_failed(out.parent, "asking for its free space", e) from e
    return info.f_bavail * info.f_frsize


def check_space(out: Path, needed: int) -> None:
    """IOFailed where the output would not fit."""
    free = free_bytes(out)
    if needed > free:
        raise IOFailed(
            f"{safe(out.parent.resolve())}: {nbytes(needed)} are needed, {nbytes(free)} are free",
            hint="free space or choose another disk",
        )
