"""Whether torchrun started this process as one of several. Needs no torch."""

from __future__ import annotations

import os


def environment() -> tuple[int, int, int]:
    """(rank, rank on this machine, number of processes) as torchrun says; (0, 0, 1) without it."""
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        return 0, 0, 1
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    rank, local, size = (int(os.environ.get(name, usual)) for name, usual in names.items())
    return rank, local, size
