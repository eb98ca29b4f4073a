"""What a run gives: digests and counts at its end, and word of how far it is until then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llamatools.engine.resources import Resources
from llamatools.plan.plan import Plan

Progress = Callable[[int], None]
"""Called with the number of bytes of model data just finished, from any thread."""

Begin = Callable[[int], Progress]
"""Called with the bytes of model data to come; returns what takes note of bytes done."""


@dataclass
class Outcome:
    """What a run found out on the way."""

    tensors: dict[str, str] = field(default_factory=dict)
    """Canonical name -> BLAKE3 of the tensor as written."""
    before: dict[str, str] = field(default_factory=dict)
    """Canonical name -> BLAKE3 of the source's tensor, where the output has another or none."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> BLAKE3 of the file."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Canonical name -> statistics of its cast, where there was one."""
    records_checked: int = 0
    records_partial: int = 0


Perform = Callable[[Plan, Resources, Path, Begin], Outcome]
"""How a plan is carried out at once, with its weight files in a folder: by one process or several.
"""
