"""A repository's files as a folder: what was fetched or cached can be opened, the rest is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamatools.containers.base import InputFile
from llamatools.errors import Unsupported
from llamatools.hub.header import HeldFile
from llamatools.opening.folder import Folder
from llamatools.text import safe


@dataclass(frozen=True)
class HeldFolder(Folder):
    """`path` is the repository's name, for messages: nothing is there."""

    files: Mapping[str, HeldFile | Path] = field(default_factory=dict)
    """What can be opened: a file's first bytes, or where the hub's cache has it."""

    def open(self, name: str) -> InputFile:
        held = self.files.get(name)
        if isinstance(held, HeldFile):
            return held
        if held is None:
            raise Unsupported(
                f"{safe(self.path / name)}: only headers of safetensors files are fetched",
                hint="download the repository, and give its folder; its config is enough for "
                "--kv-memory",
            )
        return InputFile(held)

    def holds(self, *names: str) -> bool:
        return all(name in self.files for name in names)
