"""What is said of files, by whom; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamatools.checking.hashing import Algorithm
from llamatools.errors import IOFailed, LlamatoolsError
from llamatools.text import safe


@dataclass(frozen=True)
class Expected:
    """A file as somebody says it is. `by`: the name of the file that says so, mostly."""

    name: str
    """Parts have "/" between them; none is "..", and the first is not empty."""
    algorithm: Algorithm
    digest: str
    by: str
    size: int | None = None


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `kind` is one of schemas/check.json."""

    file: str
    kind: str
    text: str
    """What, without the name of the file."""
    expected: str | None = None
    found: str | None = None
    by: str | None = None
    tensors: tuple[str, ...] = ()
    """Canonical names of those that the damage is in, where that is known."""


def unreadable(name: str, path: Path, error: LlamatoolsError) -> Problem:
    """A file that could not be read; an error of input/output may pass."""
    kind = "unreadable" if isinstance(error, IOFailed) else "not-a-file"
    return Problem(name, kind, str(error).removeprefix(f"{safe(path)}: "))


_MOST = 20


def cut(name: str, kind: str, problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The first of the problems that a source has itself, and how many more there are."""
    more = len(problems) - _MOST
    last = [Problem(name, kind, f"and {more:,} more problems")] if more > 0 else []
    return (*problems[:_MOST], *last)


@dataclass(frozen=True)
class Claim:
    """Everything that one source says of a folder's files."""

    by: str
    files: tuple[Expected, ...]
    problems: tuple[Problem, ...] = ()
    """Of the source itself."""
    notes: tuple[str, ...] = ()
    complete: bool = False
    """Whoever wrote it wrote all the files: others were added."""
    itself: int | None = None
    """The size of the source, where it is a file that proves itself as well."""
    fingerprint: str | None = None
    """The model's, of documents of ours."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """{canonical name: BLAKE3}, where they are those of the files."""


def plain_name(name: str) -> str | None:
    """The name of something in the folder or below it, in one form; None where it is none."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    parts = name.split("/")
    return None if "\0" in name or {"", ".", ".."} & set(parts) else name
