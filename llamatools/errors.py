"""One hierarchy of errors. Each carries an exit code, every problem found, and what to do next.

The exit codes are part of the interface:

    0  everything asked for holds        4  input/output failed; running again may help
    1  a check did not hold              5  the output exists already, or is locked
    2  wrong usage                       129, 130, 143  stopped by a signal
    3  the input is not acceptable
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class LlamatoolsError(Exception):
    """Base of every error this package raises on purpose.

    `problems` are complete sentences, one per thing that is wrong; all problems that can be
    known are reported together. `hint` says what the user can do about them.
    """

    exit_code = 3
    kind = "error"

    def __init__(self, problems: str | Iterable[str], *, hint: str | None = None) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.hint = hint
        super().__init__("\n".join(self.problems))


class UsageError(LlamatoolsError):
    """The request itself makes no sense, whatever the input holds."""

    exit_code = 2
    kind = "usage"


class BadInput(LlamatoolsError):
    """A file is broken, hostile, incomplete or contradicts itself."""

    exit_code = 3
    kind = "bad-input"


class Unsupported(BadInput):
    """The input is sound, and of a kind that is recognised and not handled."""

    kind = "unsupported"


class NotRepresentable(BadInput):
    """The model is sound, and the layout asked for cannot hold it."""

    kind = "not-representable"


class IOFailed(LlamatoolsError):
    """The system refused to read or write; the same command may succeed later."""

    exit_code = 4
    kind = "io"


class OutputExists(LlamatoolsError):
    """The output path is taken."""

    exit_code = 5
    kind = "output-exists"


class CheckFailed(LlamatoolsError):
    """What was made does not hold what it must; it was not published."""

    exit_code = 1
    kind = "check-failed"


@dataclass(frozen=True)
class Kept:
    """What a run that was cut short leaves, for the same command to go on with."""

    names: frozenset[str]
    """Files that are finished."""
    of: int
    """How many there will be."""
    folder: Path

    def __str__(self) -> str:
        return f"{len(self.names)} of {self.of} files are finished, and kept in {self.folder}"


def kept(error: BaseException) -> Kept | None:
    """What the run that ended so has left; None where nothing is left of it."""
    cause: BaseException | None = error
    while cause is not None:  # click makes another exception of Ctrl-C's
        found = getattr(cause, "kept", None)
        if isinstance(found, Kept):
            return found
        cause = cause.__cause__
    return None
