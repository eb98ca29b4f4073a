"""What the figures were measured on, in one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine(folder: Path) -> dict[str, str | int | float]:
    """Processor, memory, system, the load now, and the kind of file system that holds `folder`."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(folder),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _field(path: Path, name: str) -> str | None:
    """The first "name : value" line's value."""
    for line in path.read_text().splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _file_system(folder: Path) -> str:
    """The type of the innermost mount above the folder, e.g. "ext4"; the last one on a tie."""
    kind, longest = "unknown", -1
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, fs = line.split()[1:3]
        if folder.is_relative_to(mount) and len(mount) >= longest:
            kind, longest = fs, len(mount)
    return kind
