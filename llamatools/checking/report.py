"""The outcome of checks as JSON; schemas/check.json describes it."""

from __future__ import annotations

from collections.abc import Iterable

from llamatools.checking.check import Checked
from llamatools.checking.claims import Problem
from llamatools.errors import LlamatoolsError
from llamatools.text import safe

SCHEMA = "urn:llamatools:check:1"
_PATH = 4096
_SENTENCE = 2000


def build_report(outcomes: Iterable[tuple[str, Checked | LlamatoolsError]]) -> dict[str, object]:
    """Of each folder what was found, or why it could not be checked."""
    folders = [
        _failed(path, found) if isinstance(found, LlamatoolsError) else _checked(path, found)
        for path, found in outcomes
    ]
    return {
        "$schema": SCHEMA,
        "holds": all(f["holds"] for f in folders),
        "folders": folders,
    }


def _checked(path: str, found: Checked) -> dict[str, object]:
    return {
        "path": safe(path, _PATH),
        "holds": found.holds,
        "by": [safe(name, _PATH) for name in found.by],
        "files": found.files,
        "bytes": found.nbytes,
        "fingerprint": found.fingerprint,
        "problems": [_problem(p) for p in found.problems],
        "others": [safe(name, _PATH) for name in found.others],
        "notes": list(found.notes),
        "error": None,
    }


def _problem(p: Problem) -> dict[str, object]:
    return {
        "file": safe(p.file, _PATH),
        "kind": p.kind,
        "text": safe(p.text, _SENTENCE),
        "expected": p.expected,
        "found": p.found,
        "by": None if p.by is None else safe(p.by, _PATH),
        "tensors": [safe(name) for name in p.tensors],
    }


def _failed(path: str, error: LlamatoolsError) -> dict[str, object]:
    return {
        "path": safe(path, _PATH),
        "holds": False,
        "by": [],
        "files": 0,
        "bytes": 0,
        "fingerprint": None,
        "problems": [],
        "others": [],
        "notes": [],
        "error": {
            "kind": error.kind,
            "exit_code": error.exit_code,
            "problems": [safe(p, _SENTENCE) for p in error.problems],
            "hint": error.hint and safe(error.hint, _SENTENCE),
        },
    }
