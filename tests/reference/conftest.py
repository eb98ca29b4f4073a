"""Fixtures of the tests against outside implementations."""

from __future__ import annotations

from pathlib import Path

import pytest
from goldens import AsHf, Golden, Measured

import llamatools

_WORST: dict[tuple[str, str], float] = {}
"""(test module, model) -> the largest error seen."""


@pytest.fixture(scope="session")
def as_hf(tmp_path_factory: pytest.TempPathFactory) -> AsHf:
    """A folder converted to HF layout with default options, once."""
    made: dict[Path, Path] = {}

    def convert(folder: Path) -> Path:
        if folder not in made:
            out = tmp_path_factory.mktemp("hf") / f"{folder.parent.name}-{folder.name}"
            llamatools.convert(folder, out, llamatools.Options(to="hf"))
            made[folder] = out
        return made[folder]

    return convert


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    def note(golden: Golden, error: float) -> None:
        key = request.path.stem, golden.name
        _WORST[key] = max(error, _WORST.get(key, 0.0))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With -v, how far logits were from golden ones at most."""
    if not _WORST or terminalreporter.verbosity < 0:
        return
    terminalreporter.section("rms(difference) / std(logits), the largest seen")
    for (module, model), error in sorted(_WORST.items()):
        terminalreporter.line(f"{error:.1e}  {model:16} {module}")
