"""The published schemas, and documents taken apart to see whether they have teeth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = {
    p.stem: json.loads(p.read_text())
    for p in (Path(__file__).parents[2] / "schemas").glob("*.json")
}


def check(name: str, document: object) -> list[str]:
    """What a document has against the schema of that name."""
    return [e.message for e in Draft202012Validator(SCHEMAS[name]).iter_errors(document)]


def paths(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of lists the first two elements."""
    if isinstance(value, dict):
        for k, v in value.items():
            yield (*at, k)
            yield from paths(v, (*at, k))
    if isinstance(value, list):
        for i, v in enumerate(value[:2]):
            yield from paths(v, (*at, i))


def parent(document: Any, path: tuple[Any, ...]) -> Any:
    """What holds the last step of a path."""
    for step in path[:-1]:
        document = document[step]
    return document
