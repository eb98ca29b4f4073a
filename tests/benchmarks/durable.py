"""Waits until a folder is on the disk: every file in it, and the folder itself."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    for path in [*sorted(folder.iterdir()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
