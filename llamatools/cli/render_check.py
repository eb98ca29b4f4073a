"""`check` as a person reads it: a line for what is whole, and one more for each thing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamatools.text import count, listing, nbytes, safe

_MOST = 100
_LINE = 1000


def lines(report: dict[str, Any], *, quiet: bool) -> Iterator[str]:
    """`quiet`: only of folders that are not whole."""
    for folder in report["folders"]:
        if not (quiet and folder["holds"]):
            yield from _of(folder)


def _of(folder: dict[str, Any]) -> Iterator[str]:
    path = folder["path"]
    if folder["error"] is not None:
        yield f"{path}: not checked"
        yield from (f"  {safe(p, _LINE)}" for p in folder["error"]["problems"])
        return
    problems = folder["problems"]
    if problems:
        yield f"{path}: not whole: {count(len(problems), 'problem')}"
    else:
        what = f"{count(folder['files'], 'file')}, {nbytes(folder['bytes'])}"
        yield f"{path}: whole: {what}, by {listing(folder['by'])}"
    for p in problems[:_MOST]:
        where = f"; it is in {listing(p['tensors'])}" if p["tensors"] else ""
        yield safe(f"  {p['file']}: {p['text']}{where}", _LINE)
    if len(problems) > _MOST:
        yield f"  and {count(len(problems) - _MOST, 'more problem')}: see --json"
    if folder["fingerprint"] is not None:
        yield f"  fingerprint {folder['fingerprint']}"
    if folder["others"]:
        yield f"  not among them, and harmless: {listing(folder['others'])}"
    yield from (f"  note: {safe(note, _LINE)}" for note in folder["notes"])
