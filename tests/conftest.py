"""Fixtures that every folder of tests may use. This file puts `support` on the import path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

# On a busy machine any example may take long; what must be fast is measured where it is promised.
settings.register_profile("llamatools", deadline=None)
settings.load_profile("llamatools")


@pytest.fixture
def model() -> Tiny:
    """A small model whose heads, dimension and widths all differ."""
    return Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=40)


@pytest.fixture
def hf(model: Tiny, tmp_path: Path) -> Path:
    return write_hf(model, tmp_path / "hf")


@pytest.fixture
def meta(model: Tiny, tmp_path: Path) -> Path:
    """In two files."""
    return write_meta(model, tmp_path / "meta", 2)
