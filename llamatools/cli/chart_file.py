"""`--plot FILE`: refused before any work is done, or written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llamatools.engine.newfile import write_document
from llamatools.engine.place import staging
from llamatools.engine.publish import publish_file
from llamatools.engine.targets import check_file
from llamatools.errors import UsageError
from llamatools.text import safe

if TYPE_CHECKING:
    from llamatools.memory.report import Answer


def check_chart(out: Path, *, force: bool) -> None:
    """UsageError or OutputExists where the plot could not be drawn, or have that name."""
    check_file(out, force=force)
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as e:
        raise UsageError(
            f"--plot needs {safe(e.name)}, which is not installed",
            hint="pip install 'llamatools[plot]'",
        ) from None
    except (ImportError, ValueError) as e:  # broken, or with settings that it cannot read
        raise UsageError(f"--plot needs matplotlib, which does not load: {safe(e)}") from None


def write_chart(answer: Answer, out: Path, *, force: bool) -> None:
    """Draw the answer into `out`, in the form that its name ends in."""
    from llamatools.cli.memory_chart import chart

    data = chart(answer, out.suffix.lower().lstrip("."))
    with staging(out, force=force) as folder:
        write_document(folder / out.name, data)
        publish_file(folder / out.name, out, force=force)
