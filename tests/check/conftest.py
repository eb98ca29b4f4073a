"""A folder to be spoken of."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_kit import BASE, copied


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder in Meta's layout that nothing is said of."""
    return copied(BASE, tmp_path / "release")
