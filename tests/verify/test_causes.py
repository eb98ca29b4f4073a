"""What a failure is put down to, where the config tells more than its shape."""

from __future__ import annotations

import pytest

from llamatools.verifying.causes import causes
from llamatools.verifying.locate import Place, Positions


def keys(kind: str, pattern: str, *differences: str, error: float | None = 0.4) -> list[str]:
    place = Place(kind, 0, "embedding", error, Positions(pattern, "somewhere"))
    return [c.key for c in causes(place, list(differences), 0)]


@pytest.mark.parametrize("pattern", ["far", "grows", "all"])
def test_a_setting_that_differs_comes_first(pattern: str) -> None:
    """A theta that is little off shows in far positions alone, as rope scaling does."""
    assert keys("attention", pattern, "rope_theta: 400000, the reference has 500000")[0] == "theta"
    assert "theta" not in keys("attention", pattern)[:1]


def test_but_not_where_it_has_no_effect() -> None:
    assert "theta" not in keys("mlp", "all", "rope_theta: 400000, the reference has 500000")
    assert keys("attention", "far", "context: 10, the reference has 20") == ["scaling"]


def test_a_setting_that_is_the_same_comes_last() -> None:
    place = Place("attention", 0, "attention", 0.4, Positions("grows", "somewhere"))
    unknown, known = ([c.key for c in causes(place, [], 0, known=k)] for k in (False, True))
    assert unknown[:2] == ["scaling", "theta"] and known[-2:] == ["scaling", "theta"]
    assert known[0] == "permutation" and sorted(known) == sorted(unknown)


def test_what_is_no_number_has_one_cause() -> None:
    assert keys("mlp", "all", "rope_theta: 1, the reference has 2", error=None) == ["nan"]
