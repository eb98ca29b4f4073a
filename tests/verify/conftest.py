"""Models and what transformers says of them, made once."""

from __future__ import annotations

import pytest
from by_transformers import make_golden
from judging import Made, Make
from sharp import Sharp, write


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A model's folder and its default golden."""
    made: dict[str, Made] = {}

    def make(model: Sharp) -> Made:
        if model.name not in made:
            folder = write(model, tmp_path_factory.mktemp("sharp") / model.name)
            made[model.name] = Made(folder, make_golden(folder))
        return made[model.name]

    return make
