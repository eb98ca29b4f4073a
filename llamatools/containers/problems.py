"""All problems of one file at once, but never a report longer than the file deserves."""

from __future__ import annotations

from collections.abc import Sequence

from llamatools.errors import BadInput

_SHOWN = 20
"""A hostile header can hold a million bad entries; nobody reads more than these."""


def refuse_if(
    problems: Sequence[str], *, hint: str | None = None, error: type[BadInput] = BadInput
) -> None:
    """Raise `error` with every problem, the list cut short; return if there is none."""
    if not problems:
        return
    shown = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN:,} more problems")
    raise error(shown, hint=hint)
