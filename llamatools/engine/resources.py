"""What a run may take: workers, and memory within a budget, whatever the model's size."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llamatools.errors import UsageError
from llamatools.plan.plan import Plan
from llamatools.text import nbytes

DEFAULT_MEMORY = 256 << 20
_BLOCK_BYTES = 2 << 20
"""Small enough to stay in a core's cache from reading to digesting to writing."""


@dataclass(frozen=True)
class Resources:
    """How many workers, in blocks of how many bytes, with how much scratch memory each."""

    jobs: int
    block_bytes: int
    arena_bytes: int

    @property
    def peak(self) -> int:
        return self.jobs * self.arena_bytes


def resources(plan: Plan, jobs: int | None = None, memory: int = DEFAULT_MEMORY) -> Resources:
    """The largest blocks, then the most workers, that the byte budget allows.

    Raises UsageError where even single granules on one worker exceed the budget.
    """
    wanted = jobs or min(4, os.cpu_count() or 1)
    for workers in range(wanted, 0, -1):
        block = _BLOCK_BYTES
        while block:
            if workers * plan.peak(block) <= memory:
                return Resources(workers, block, plan.peak(block))
            block //= 2
    raise UsageError(
        f"--max-memory {nbytes(memory)} is too little for this model: "
        f"its largest indivisible block needs {nbytes(plan.peak(1))}"
    )
