"""What the name of a folder says of the model in it."""

from __future__ import annotations

import re
from pathlib import Path

_INSTRUCT = re.compile(r"(^|[-_.])(instruct|chat)([-_.]|$)")


def model_name(folder: Path) -> str:
    """The name of the folder that is named after the model.

    Official repositories keep Meta's files in a folder `original`; the hub cache names its folders
    models--<organisation>--<model>/snapshots/<revision>.
    """
    folder = folder.resolve()
    if folder.name == "original":
        folder = folder.parent
    if folder.parent.name == "snapshots":
        folder = folder.parent.parent
    return folder.name.rpartition("--")[2]


def looks_instruct(folder: Path) -> bool:
    """Whether a folder's name says that the model was tuned to chat; no file of Meta's does."""
    return _INSTRUCT.search(model_name(folder).lower()) is not None
