"""Typed access to a JSON object from a file: every wrong value is noted, none is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llamatools.text import safe

_MAX_COUNT = 1 << 40


class Fields:
    """Reads values by key; problems collect in `problems`, so that all are reported at once."""

    def __init__(self, data: Mapping[str, object], where: str) -> None:
        self._data = data
        self._where = where
        self.problems: list[str] = []

    def _wrong(self, key: str, expected: str) -> None:
        found = safe(repr(self._data[key]), 60)
        self.problems.append(f"{self._where}: {safe(key)}: expected {expected}, found {found}")

    def count(self, key: str) -> int | None:
        """A positive whole number; None where the key is absent or null."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_COUNT:
            self._wrong(key, "a positive whole number")
            return None
        return value

    def number(self, key: str, below: float = math.inf) -> float | None:
        """A positive finite number, smaller than `below`."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a positive number")
            return None
        if not 0 < value < below:
            limit = "" if below == math.inf else f" below {below:g}"
            self._wrong(key, f"a positive number{limit}")
            return None
        return float(value)

    def flag(self, key: str) -> bool | None:
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            self._wrong(key, "true or false")
            return None
        return value

    def text(self, key: str) -> str | None:
        value = self._data.get(key)
        if value is not None and not isinstance(value, str):
            self._wrong(key, "a string")
            return None
        return value

    def mapping(self, key: str) -> dict[str, object] | None:
        value = self._data.get(key)
        if value is not None and not isinstance(value, dict):
            self._wrong(key, "an object")
            return None
        return value

    def require(self, **found: object) -> None:
        """Note every key whose value was not found."""
        missing = [k for k, v in found.items() if v is None and self._data.get(k) is None]
        self.problems += [f"{self._where}: {k} is missing" for k in missing]
