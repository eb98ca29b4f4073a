"""What a run leaves is taken away, whatever it is and whatever comes between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path


def empty(folder: Path, but: Collection[str], *, gently: bool = False) -> None:
    """Remove all that has none of these names."""
    for name in listed(folder):
        if name not in but:
            remove(folder / name, gently=gently)


def listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:  # what cannot be listed cannot be used either, and will say why
        return []


def remove(path: Path, *, gently: bool = False) -> None:
    """Whatever it is; links are not followed. OSError, unless gently."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=gently)
    except OSError:
        if not gently:
            raise


def surely(action: Callable[[], None]) -> None:
    """A signal that comes meanwhile is the last one: what it cut short is done again."""
    try:
        action()
    except Exception:
        raise
    except BaseException:
        action()
        raise
