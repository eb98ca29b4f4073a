"""Figures of a report: an integer, and whether it is exact; an estimate says where it is from."""

from __future__ import annotations

Report = dict[str, object]


def exact(value: int) -> Report:
    return {"value": value, "kind": "exact"}


def estimate(value: int, source: str) -> Report:
    return {"value": value, "kind": "estimate", "source": source}
