"""Output appears whole or not at all: built in a place of its own (place.py), renamed once.

By force it takes the place of another output, in one step where the file system can exchange two
names; where it cannot, the former output waits in the run's place, from where the next run of the
same command gives it back if this one is cut short in between.
"""

from __future__ import annotations

from pathlib import Path

from llamatools.engine import rename
from llamatools.engine.commit import commit
from llamatools.engine.place import OLD, Unsure, check_held
from llamatools.engine.targets import check_replaceable
from llamatools.engine.words import say
from llamatools.errors import IOFailed, LlamatoolsError, OutputExists
from llamatools.text import safe


def publish(folder: Path, out: Path, *, force: bool) -> None:
    """Give a finished folder its name, in one step, and make that durable.

    By force, what had the name is in the finished folder's place then, and goes with that.
    """
    rename.sync_folder(folder)
    check_held(folder)
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


def publish_file(file: Path, out: Path, *, force: bool = False, stands: bool = True) -> None:
    """Give a finished file in a staging folder its name; by force, in place of a plain file.

    Where it does not stand, because another will take its place, the run may still be stopped.
    """
    check_held(file.parent)
    if stands:
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
