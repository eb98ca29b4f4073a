"""Whether torchrun started this process as one of several. Needs no torch."""

from __future__ import annotations

import os

from llamatools.errors import UsageError
from llamatools.text import safe


def environment() -> tuple[int, int, int]:
    """(rank, rank on this machine, number of processes) as torchrun says; (0, 0, 1) without it."""
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        return 0, 0, 1
    return _number("RANK", 0), _number("LOCAL_RANK", 0), _number("WORLD_SIZE", 1)


def check_alone(what: str) -> None:
    """UsageError where torchrun started several processes, of which each would do all the work."""
    size = environment()[2]
    if size > 1:
        raise UsageError(
            f"{what} is called in one of {size} processes that torchrun started, and shares "
            "nothing with the others",
            hint="torchrun -m llamatools shares the work; to do it here alone, run this without "
            "RANK and WORLD_SIZE in the environment",
        )


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, str(usual))
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"the environment says {name}={safe(text)}, which is not a number",
            hint="torchrun sets it; unset it to run one process",
        )
    return int(text)
