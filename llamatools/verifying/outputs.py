"""Reports as files: checked before a run that may take hours, each written in one step.

A report replaces the one of the run before, as in CI it should; never anything that was read. It
does so before the run begins, so that no run that breaks leaves an older one's verdict behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llamatools.engine.newfile import write_document
from llamatools.engine.place import staging
from llamatools.engine.publish import publish_file
from llamatools.engine.targets import check_apart, check_file
from llamatools.errors import LlamatoolsError, OutputExists
from llamatools.text import safe
from llamatools.verifying import html, junit

_ENDINGS = (".html", ".htm", ".xml")
_MOST_PROBLEMS = 100
Write = Callable[[dict[str, Any]], None]


def check_targets(
    outputs: Sequence[Path], *, models: Iterable[Path] = (), files: Iterable[Path] = ()
) -> None:
    """UsageError, OutputExists where a report could not be written, or would cost an input."""
    check_apart(outputs, models=models, files=files)
    for out in outputs:
        check_file(out, force=True)
        if os.path.lexists(out) and out.suffix.lower() not in _ENDINGS:
            raise OutputExists(
                f"{safe(out)} exists already",
                hint=f"only files named {', '.join(_ENDINGS)} are taken for older reports",
            )


@contextmanager
def reports(source: str, junit_path: str | None, html_path: str | None) -> Iterator[Write]:
    """Gives what writes a verdict on `source` to the files. Until then they say that there is
    none: that the run has not ended, or why it broke."""
    forms = ((junit_path, junit), (html_path, html))
    wanted = [(Path(path), form) for path, form in forms if path is not None]

    def unjudged(problems: Sequence[str], hint: str | None = None) -> None:
        for out, form in wanted:
            data = form.unjudged(source, problems, hint)
            replace_file(out, data, stands=False)

    def write(report: dict[str, Any]) -> None:
        made = [(out, form.render(report)) for out, form in wanted]
        for out, data in made:
            replace_file(out, data)

    try:
        unjudged(["the run has not ended, or was killed"])
        yield write
    except BaseException as e:
        with suppress(LlamatoolsError):  # what broke the run is worth more
            unjudged(*_reason(e))
        raise


def _reason(e: BaseException) -> tuple[Sequence[str], str | None]:
    if isinstance(e, LlamatoolsError):
        more = len(e.problems) - _MOST_PROBLEMS
        rest = [f"and {more:,} more problems"] if more > 0 else []
        return [*e.problems[:_MOST_PROBLEMS], *rest], e.hint
    if isinstance(e, Exception):
        return [f"{type(e).__name__}: {e}"], None
    return ["the run was stopped"], None


def replace_file(out: Path, data: bytes, *, stands: bool = True) -> None:
    """A whole file in one step, over an older one."""
    with staging(out, force=True) as folder:
        write_document(folder / out.name, data)
        publish_file(folder / out.name, out, force=True, stands=stands)
