"""What a command is to write, planned and checked: `--dry-run` shows it, `run` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamatools.checkpoint import Checkpoint
from llamatools.engine.outcome import Begin, Outcome
from llamatools.engine.resources import DEFAULT_MEMORY, Resources
from llamatools.errors import IOFailed
from llamatools.plan.build import Options
from llamatools.plan.plan import Plan
from llamatools.text import safe

_DOCUMENT_RESERVE = 1 << 20
"""Space set aside for the manifest, whose size is not known beforehand, per thousand tensors."""

Proof = Callable[[Path, str, Mapping[str, object]], Mapping[str, object]]
"""Called with the finished staging folder, the name of the document in it, and what that says;
returns what `run` says besides. Where it raises, nothing is published."""


def hold_nothing(outcome: Outcome) -> None:
    """For commands that promise no more than any conversion."""


def prove_nothing(folder: Path, name: str, found: Mapping[str, object]) -> Mapping[str, object]:
    """For output that nobody asked to have read back."""
    return {}


@dataclass(frozen=True)
class Prepared:
    """A conversion that is planned and checked, and has written nothing."""

    source: Checkpoint
    out: Path
    options: Options
    plan: Plan
    limits: Resources
    force: bool
    origin: Checkpoint | None = None
    """Whose weights are changed, where the files that go along are another checkpoint's."""
    check: Callable[[Outcome], None] = hold_nothing
    """What the command promises of the result; raises CheckFailed where it does not hold."""
    prove: Proof = prove_nothing
    """How the output is looked at before it gets its name."""
    max_memory: int = DEFAULT_MEMORY
    reread: Begin = lambda total: lambda done: None
    """Told how far it is when the output of a run that went on is read back."""

    @property
    def disk_needed(self) -> int:
        """Bytes the output takes, its manifest estimated."""
        travellers = sum(_size(self.source.folder.path / name) for name in self.plan.travellers)
        manifest = _DOCUMENT_RESERVE * (1 + len(self.plan.steps) // 1000)
        return self.plan.write_bytes + travellers + manifest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as e:
        raise IOFailed(f"{safe(path)}: cannot be looked at: {e.strerror}") from e
