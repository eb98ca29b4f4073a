"""Output appears whole or not at all: built in a place of its own (place.py), renamed once.

By force it takes the place of another output, in one step where the file system can exchange two
names; where it cannot, the former output waits in the run's place, from where the next run of the
same command gives it back if this one is cut short in between.
"""

from __future__ import annotations

import os
from pathlib import Path

from llamatools.containers import links
from llamatools.engine import rename
from llamatools.engine.commit import commit
from llamatools.engine.newfile import io_failed
from llamatools.engine.place import OLD, Unsure, place_of, refuse_taken
from llamatools.engine.words import say
from llamatools.errors import IOFailed, LlamatoolsError, OutputExists, UsageError
from llamatools.text import nbytes, safe

_OURS = ("llamatools.json", "llamatools-delta.json")
_MODEL = ("*.safetensors", "*.pth", "*.bin", "tokenizer.json", "tokenizer.model")
"""Where one of these is, --force takes a folder without folders for a checkpoint."""


def check_paths(source: Path, out: Path, *, force: bool) -> None:
    """Refuse an output that is taken, or that lies in, around or on the input."""
    src, dst = _found(source), _found(out)
    home = src if src.is_dir() else src.parent
    homes = (home, *links.blobs(home))  # the hub's cache keeps the files themselves elsewhere
    if any(dst == h or h in dst.parents or dst in (*h.parents, src) for h in homes):
        raise UsageError(
            f"the output {safe(out)} is the input, or lies inside or around it",
            hint="choose an output folder beside the input",
        )
    check_output(out, force=force)
    if place_of(out) in (home, *home.parents):
        raise UsageError(
            f"the input {safe(source)} is what an interrupted run for {safe(out)} left",
            hint="run that command again to finish it, or choose another name for the output",
        )


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
    """The same for an output that is one file."""
    _check_place(out, force=force)
    if rename.there(out) and (out.is_symlink() or not out.is_file()):
        raise OutputExists(f"{safe(out)} is not a plain file, and is not replaced")


def _check_place(out: Path, *, force: bool) -> None:
    if not out.name:
        raise UsageError(
            f"{safe(out)}: the current folder cannot be the output",
            hint="give the output folder a name",
        )
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


def publish(folder: Path, out: Path, *, force: bool) -> None:
    """Give a finished folder its name, in one step, and make that durable.

    By force, what had the name is in the finished folder's place then, and goes with that.
    """
    rename.sync_folder(folder)
    target = _resolved(out)
    replaced = force and rename.there(target)
    if replaced:
        check_replaceable(target)
    commit()
    former = None
    if not replaced:
        rename.place(folder, target)
    elif rename.exchange(folder, target):
        former = folder
    else:
        former = _replace_in_two_steps(folder, target)
    _settle(target, former)


def publish_file(file: Path, out: Path, *, force: bool = False) -> None:
    """Give a finished file in a staging folder its name; by force, in place of a plain file."""
    commit()
    target = _resolved(out)
    if not force:
        rename.place(file, target)
    elif rename.there(target) and (target.is_symlink() or not target.is_file()):
        raise OutputExists(f"{safe(target)} is not a plain file, and is not replaced")
    else:  # one step on every file system
        rename.move(file, target)
    _settle(target, None)


def _settle(target: Path, former: Path | None) -> None:
    """Make the output's new name durable, before anything goes that it replaced."""
    try:
        rename.sync_folder(target.parent)
    except IOFailed as e:
        error = Unsure(
            [f"{safe(target)} is written, but may not outlast a failure of power:", *e.problems],
            hint=f"what it replaced is still there, as {safe(former)}" if former else e.hint,
        )
        error.replaced = former is not None
        raise error from e


def _resolved(out: Path) -> Path:
    """The name itself is kept: of a link, it is the link's."""
    return out.parent.resolve() / out.name


def _replace_in_two_steps(folder: Path, target: Path) -> Path:
    """For file systems that cannot exchange two names: there is a moment without output. Returns
    where the former one is."""
    old = folder.with_name(OLD)
    say(
        f"{safe(target)} is replaced in two steps, since its file system knows no single one; if "
        f"that is cut short, it is in {safe(old)}"
    )
    rename.move(target, old)
    try:
        rename.sync_folder(old.parent)
        rename.move(folder, target)
    except LlamatoolsError as e:
        try:
            rename.move(old, target)
        except LlamatoolsError as other:
            raise IOFailed(
                [*e.problems, *other.problems],
                hint=f"what it replaced is still there, as {safe(old)}; the next run for this "
                "output gives it its name back",
            ) from e
        raise
    return old
