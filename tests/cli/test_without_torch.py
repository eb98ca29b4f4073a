"""Moving bytes needs no torch: what imports it takes seconds and hundreds of megabytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from llamatools.cli import failures, main
words = sys.argv[1:]
code = failures.guard(lambda: main.cli(words, standalone_mode=False), words)
assert code == 0, code
print("torch" in sys.modules, file=sys.stderr)
"""


def _imports_torch(*arguments: object) -> bool:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"True": True, "False": False}[done.stderr.split()[-1]]


def test_inspect(meta: Path) -> None:
    assert not _imports_torch("inspect", meta)


def test_fingerprint(hf: Path, meta: Path) -> None:
    assert not _imports_torch("fingerprint", hf, meta)


@pytest.mark.parametrize("to", ["hf", "meta", "safetensors"])
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--verify",)], ids=["", "dry", "verify"])
def test_convert(to: str, more: tuple[str, ...], meta: Path, tmp_path: Path) -> None:
    assert not _imports_torch("convert", meta, tmp_path / "out", "--to", to, *more)


def test_merging_an_adapter(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "golden"
    base, adapter = golden / "llama3-gqa/mp2", golden / "llama3-gqa-lora"
    assert not _imports_torch("merge-lora", base, adapter, tmp_path / "out", "--to", "hf")


def test_reading_a_merge_back(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "golden"
    base, adapter = golden / "llama3-gqa/mp2", golden / "llama3-gqa-lora"
    words = ("merge-lora", base, adapter, tmp_path / "out", "--to", "hf", "--verify")
    assert not _imports_torch(*words)


def test_planning_a_cast(meta: Path, tmp_path: Path) -> None:
    arguments = ("convert", meta, tmp_path / "out", "--to", "hf", "--dtype", "fp32")
    assert not _imports_torch(*arguments, "--dry-run")
    assert _imports_torch(*arguments)
