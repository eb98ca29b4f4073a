"""A repository's files as a folder: what was fetched or cached can be opened, the rest is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, Unsupported
from llamatools.hub.header import HeldFile
from llamatools.opening.folder import Folder
from llamatools.opening.weightfiles import FETCH
from llamatools.text import listing, safe

_INCOMPLETE = "the repository lacks them: is another revision whole? org/name@revision"
_ORIGINAL = "give the repository of the original Meta or Hugging Face release"


@dataclass(frozen=True)
class HeldFolder(Folder):
    """`path` is the repository's name, for messages: nothing is there."""

    files: Mapping[str, HeldFile | Path] = field(default_factory=dict)
    """What can be opened: a file's first bytes, or where the hub's cache has it."""
    cache: bool = False
    """`names` are those that the hub's cache has; the repository may have more."""
    elsewhere: tuple[str, ...] = ()
    """The repository's folders that hold weights, and are not looked into."""

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """As of any folder, but that nobody can put a file beside the others."""
        try:
            return super().weights
        except BadInput as e:
            hint = _INCOMPLETE if e.hint == FETCH else e.hint
            raise type(e)(e.problems, hint=hint) from None

    @property
    def gguf(self) -> tuple[str, ...]:
        return tuple(sorted(n for n in self.names if n.endswith((".gguf", ".ggml"))))

    def _weightless(self) -> BadInput:
        found = super()._weightless()
        if self.gguf:
            return type(found)(found.problems, hint=_ORIGINAL)
        if isinstance(found, Unsupported):
            return found
        if not self.elsewhere:
            return type(found)(found.problems, hint="is there another repository of its weights?")
        where = "a subfolder" if len(self.elsewhere) == 1 else "subfolders"
        return BadInput(
            f"{safe(self.path)}: no weights but in {where} ({listing(self.elsewhere)}): "
            "subfolders are not read",
            hint="download the repository, and give the folder that holds the weight files",
        )

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
