"""The README shows what the program prints: every console block is run and compared."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from llamatools.cli.main import cli

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"```console\n\$ llamatools ([^\n]*)\n(.*?)```", re.S)
_PYTHON = re.compile(r"```python\n(.*?)```", re.S)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "golden").symlink_to(ROOT / "golden")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def _plain(text: str) -> str:
    """Without trailing spaces and without the figures that differ from machine to machine."""
    text = re.sub(r"[\d.]+ [kMGT]?B free", "# free", text)
    text = re.sub(r"[\d.]+ MB with \d workers?", "# buffers", text)
    text = re.sub(r"\d\.\d\de-\d\d", "#", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_console_blocks_show_real_output(workplace: Path) -> None:
    blocks = _BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 5
    for command, shown in blocks:
        result = CliRunner().invoke(cli, shlex.split(command))
        assert result.exit_code == 0, result.output
        assert _plain(result.stdout) == _plain(shown), command


def test_library_example_runs(workplace: Path) -> None:
    (example,) = _PYTHON.findall((ROOT / "README.md").read_text())
    exec(compile(example, "README.md", "exec"), {})


def test_ci_runs_the_commands_of_the_readme() -> None:
    shell = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert [c.count("\n") for c in shell] == [1, 1]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
