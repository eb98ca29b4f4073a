"""Limits of gates are above what clean models show, and not much above it."""

from __future__ import annotations

from pathlib import Path

import pytest
from noise import KEYS, MODELS, Found, measure, most

from llamatools.verifying.gates import GATES


@pytest.mark.slow
def test_limits_are_what_was_measured(tmp_path: Path) -> None:
    found: list[Found] = []
    for model in MODELS:
        found += measure(model, tmp_path / model.name)
    measured = most(found)
    fine = {"fp32": 2.0, "fp32-fp64": 2.8, "fp32-deep": 3.0}
    narrow = ("cast-fp16", "fp16", "cast", "bf16")
    assert set(measured) == {*fine, *narrow, *(f"{name}-deep" for name in narrow)}
    for name, numbers in measured.items():
        for key, number in zip(KEYS, numbers, strict=True):
            limit = getattr(GATES[name], key)
            assert limit >= fine.get(name, 1.4) * number, (name, key, number)
            assert name in fine or limit <= 3 * number, (name, key, number)
    assert all(GATES[f.gate].rms >= f.numbers[0] for f in found)


def test_a_small_model_is_within_the_limits(tmp_path: Path) -> None:
    """The measurement itself, without waiting for it."""
    for f in measure(MODELS[0], tmp_path):
        limits = tuple(getattr(GATES[f.gate], key) for key in KEYS)
        assert all(n <= limit for n, limit in zip(f.numbers, limits, strict=True)), f
        assert f.gate != "exact" and f.numbers[0] > 0, f
