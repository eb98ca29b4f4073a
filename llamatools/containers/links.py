"""Which symbolic links a checkpoint's folder may hold: those that lead nowhere else.

The hub's cache links <repo>/snapshots/<revision>/.../<name> to <repo>/blobs/<digest>; no other link
may leave its folder. What a link leads to is opened under its own name, never through the link.
"""

from __future__ import annotations

from pathlib import Path


def target(link: Path) -> Path | None:
    """The file or folder that a link leads to in the end; None where it must not be followed."""
    try:
        home, found = link.parent.resolve(), link.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # to nowhere, or in a circle
        return None
    return found if home in found.parents or found.parent in blobs(home) else None


def blobs(folder: Path) -> list[Path]:
    """Where the hub's cache keeps what a resolved folder in one of its snapshots links to."""
    return [p.parent / "blobs" for p in folder.parents if p.name == "snapshots"]
