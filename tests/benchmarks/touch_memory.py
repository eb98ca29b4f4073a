"""Touches BYTES of free memory, as far as they are free, and gives them back: BYTES.

Under a hypervisor, memory that was freed a while ago may have gone back to the host, and whoever
uses it next pays for fetching it: several times what copying costs. After this, nobody does.
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path


def free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemFree")


def main() -> None:
    # Not all of it: to make room, the kernel would drop the input from the page cache.
    pages = min(int(sys.argv[1]), int(0.8 * free_bytes())) // mmap.PAGESIZE
    if pages:
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = bytes(pages)


if __name__ == "__main__":
    main()
