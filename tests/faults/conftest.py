"""Stages for all tests of faults, and how many faults a session has tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forked import COUNTS
from promises import state_of, unchanged
from scenes import SCENES, Stage, Staged


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """By the scene's name, once set for all tests."""
    return {}


@pytest.fixture
def staged(stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    """Sets a scene; after the test its inputs must be what they were before it."""
    used: dict[str, tuple[Stage, object]] = {}

    def stage_of(name: str) -> Stage:
        if name not in stages:
            stages[name] = Stage(SCENES[name], tmp_path_factory.mktemp("stage"))
            assert stages[name].wanted
        stage = stages[name]
        used.setdefault(name, (stage, state_of(stage.inputs)))
        stage.clear()
        return stage

    yield stage_of
    for stage, before in used.values():
        assert unchanged(stage, before) == []  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS.runs:
        c = COUNTS
        terminalreporter.write_line(
            f"faults: {c.runs:,} runs, {c.faults:,} with a fault, {c.kills:,} by kill; "
            f"{c.states:,} disks after power loss"
        )
