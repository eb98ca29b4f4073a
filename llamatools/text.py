"""Words for people: names from files made harmless, sizes, and long lists cut short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MAX_NAME = 200
_COMMAND = re.compile(r"([:#])(?=\1)")


def safe(text: object, limit: int = _MAX_NAME) -> str:
    """A string from a file as it may be printed: one line, no control characters, bounded.

    What CI systems obey where a line begins with it (`::error::`, `##[group]`) is broken up
    wherever it stands, since lines may be wrapped.
    """
    raw = str(text)
    if len(raw) <= limit and raw.isprintable() and "::" not in raw and "##" not in raw:
        return raw  # nearly always, and called for every name of every file
    out = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw[:limit]
    )
    out = _COMMAND.sub(r"\1\\", out)
    return out + ("…" if len(raw) > limit else "")


def listing(items: Iterable[object], limit: int = 5) -> str:
    """The first few items, and how many more there are."""
    seq: Sequence[object] = list(items)
    shown = ", ".join(safe(i) for i in seq[:limit])
    return shown + (f" and {len(seq) - limit} more" if len(seq) > limit else "")


def nbytes(n: int | float) -> str:
    """Bytes in decimal units, as disks and hubs count them: 2_471_645_608 -> '2.47 GB'."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def count(n: int, noun: str) -> str:
    """'1 file', '3 files'."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
