"""`--dry-run` says what --verify and --golden would do, and what is said comes true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.calls import Called, call

ROOT = Path(__file__).parents[2]
BASE, LOGITS = ROOT / "golden" / "llama3-gqa" / "mp2", ROOT / "golden/llama3-gqa/golden.safetensors"
SCHEMA = json.loads((ROOT / "schemas" / "plan.json").read_text())
CPU = ("--device", "cpu")


def _dry(tmp_path: Path, *words: object) -> Any:
    done = call("convert", BASE, tmp_path / "out", *words, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert [e.message for e in Draft202012Validator(SCHEMA).iter_errors(done.json)] == []
    assert list(tmp_path.iterdir()) == []
    return done.json["verification"]


@pytest.mark.parametrize("to", ["hf", "meta", "fp16"])
def test_what_is_said_comes_true(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamatools.reference.run import Runner, RunReport

    reports: list[RunReport] = []
    forward = Runner.forward

    def seen(self: Runner, *arguments: Any) -> RunReport:
        reports.append(forward(self, *arguments))
        return reports[-1]

    monkeypatch.setattr(Runner, "forward", seen)
    words = ("--to", "hf", "--dtype", "fp16") if to == "fp16" else ("--to", to)
    golden = _dry(tmp_path, *words, "--golden", LOGITS, *CPU)["golden"]
    assert (golden["prompts"], golden["positions"]) == (1, 32)
    assert (golden["path"], golden["device"], golden["dtype"]) == (str(LOGITS), "cpu", "fp32")
    call("convert", BASE, tmp_path / "out", *words, "--golden", LOGITS, *CPU, "-q")
    (report,) = reports
    assert golden["bytes_read"] == report.read
    assert golden["memory"] == report.footprint.total


def _said(tmp_path: Path, *words: object) -> Called:
    return call("convert", BASE, tmp_path / "out", "--to", "hf", *words, "--dry-run")


def test_it_is_shown(tmp_path: Path) -> None:
    words = " ".join(_said(tmp_path, "--golden", LOGITS, *CPU).out.split())
    assert "read back every file and tensor" in words
    assert "1 prompt, 32 positions" in words and "fp32 on cpu, 402 kB of memory at most" in words
    assert "221 kB read" in words


def test_without_them_nothing_is_said(tmp_path: Path) -> None:
    assert _dry(tmp_path, "--to", "hf") is None
    assert "read back" not in _said(tmp_path).out
    assert _dry(tmp_path, "--to", "hf", "--verify") == {"golden": None}
    assert "read back" in _said(tmp_path, "--verify").out
