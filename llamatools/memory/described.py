"""A model as its config describes it, and the limits of what a config may say."""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.memory.architecture import Architecture
from llamatools.memory.formats import Format

MOST_LAYERS = 10_000
MOST_EXTENT = 1 << 24
"""Beyond any model; sums stay small integers, and tables small."""


@dataclass(frozen=True)
class Described:
    """A model as its config describes it."""

    architecture: Architecture
    format: Format
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    quantised: str | None = None
    """How the config says its weights are quantised."""
