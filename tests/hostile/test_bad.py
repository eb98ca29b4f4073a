"""Checkpoints that must be refused: with a word for the culprit, and nothing done besides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus import CASES
from kit import SECRET, Case, unchanged
from support.calls import Called, call


def judge(case: Case, done: Called) -> None:
    """What holds of every refusal."""
    shown = done.out + done.err
    assert done.code == case.code, shown
    assert "Traceback" not in shown
    assert "defect" not in shown
    assert re.search("^error: ", done.err, re.MULTILINE)
    for word in case.words:
        assert word in done.err, f"{word!r} is not in:\n{done.err}"
    assert SECRET not in shown
    assert len(done.err) < 20_000
    lines = done.err.splitlines()
    assert not any(line.lstrip().startswith(("::", "##[")) for line in lines)
    assert all(c.isprintable() or c == "\n" for c in shown)


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    source = case.make(tmp_path / "in") or tmp_path / "in"
    with unchanged(tmp_path):
        judge(case, call("convert", source, tmp_path / "out", "--to", case.to, *case.more))
        assert call("inspect", source).code in (0, 3, 2)
        assert call("inspect", source, "--json").code in (0, 3, 2)
