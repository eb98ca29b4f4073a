"""Reports as files: checked before a run that may take hours, written in one step after it.

A report replaces the one of the run before, as in CI it should; never anything that was read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamatools.engine.newfile import write_document
from llamatools.engine.place import staging
from llamatools.engine.publish import publish_file
from llamatools.errors import OutputExists, UsageError
from llamatools.text import safe
from llamatools.verifying.html import html
from llamatools.verifying.junit import junit

_ENDINGS = (".html", ".htm", ".xml")


def check_targets(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """UsageError, OutputExists where a report could not be written, or would cost an input."""
    for out in outputs:
        if not out.name or not out.parent.resolve().is_dir():
            raise UsageError(f"{safe(out)}: no such folder to put the report in")
        read = [p.resolve() for p in inputs]
        if any(p == out.resolve() or p in out.resolve().parents for p in read):
            raise UsageError(
                f"{safe(out)} is an input, or lies in one", hint="write the report elsewhere"
            )
        if not os.path.lexists(out):
            continue
        if out.is_symlink() or not out.is_file():
            raise OutputExists(f"{safe(out)} is not a file, and is not replaced")
        if out.suffix.lower() not in _ENDINGS:
            raise OutputExists(
                f"{safe(out)} exists already",
                hint=f"only files named {', '.join(_ENDINGS)} are taken for older reports",
            )
    if len({p.resolve() for p in outputs}) < len(outputs):
        raise UsageError("two reports cannot be one file")


def write_reports(report: dict[str, Any], junit_path: str | None, html_path: str | None) -> None:
    for path, make in ((junit_path, junit), (html_path, html)):
        if path is not None:
            replace_file(Path(path), make(report))


def replace_file(out: Path, data: bytes) -> None:
    """A whole file in one step, over an older one."""
    with staging(out, force=True) as folder:
        write_document(folder / out.name, data)
        publish_file(folder / out.name, out, force=True)
