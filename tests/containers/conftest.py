"""Fixtures of the container tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.forge import Refused

from llamatools.containers.base import Container
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput


@pytest.fixture
def open_bytes(tmp_path: Path) -> Callable[[bytes], Container]:
    """Open bytes as a file of a name that says nothing."""

    def open_(data: bytes) -> Container:
        path = tmp_path / "file"
        path.write_bytes(data)
        return open_container(path)

    return open_


@pytest.fixture
def refused(open_bytes: Callable[[bytes], Container]) -> Refused:
    """Expect bytes to be refused with a message that holds every one of `words`."""

    def refused_(data: bytes, *words: str, error: type[BadInput] = BadInput) -> BadInput:
        with pytest.raises(BadInput) as caught:
            open_bytes(data)
        assert type(caught.value) is error, caught.value
        for word in words:
            assert word in str(caught.value)
        assert "file" in str(caught.value), "an error names its file"
        return caught.value

    return refused_
