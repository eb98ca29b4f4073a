"""What is printed with --json obeys its schema, and the schema has teeth."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.calls import call, edit_json
from support.tiny_files import write_hf
from tuned_models import EMBEDDING, LINEAR, shift, small, together, tuned

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/extract.json").read_text())


def check(document: object) -> list[str]:
    return [e.message for e in Draft202012Validator(SCHEMA).iter_errors(document)]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With every way to store a tensor, a note and a conflict in it."""
    folder = tmp_path_factory.mktemp("extract")
    model = small(attention_bias=True)
    change = together(shift(LINEAR, "q_proj.bias"), shift("norm.weight", EMBEDDING))
    base = write_hf(model, folder / "base")
    other = write_hf(tuned(model, change), folder / "tuned")
    edit_json(other / "config.json", vocab_size=1)
    words = ("--rank", 3, "--json", "--save-modules", "bias,norm")
    found = call("extract-lora", base, other, folder / "out", *words).json
    assert {t["stored"] for t in found["tensors"]} == {"factors", "bias", "in full", "left out"}
    assert found["notes"] and found["conflicts"]
    return found


def test_it_is_obeyed(document: Any) -> None:
    assert check(document) == []


def _paths(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*at, key)
        yield from _paths(inner, (*at, key))


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def test_a_mutilated_document_is_refused(document: Any) -> None:
    """An object in place of any value, an unknown key in any object, and any key left out."""
    validator = Draft202012Validator(SCHEMA)
    paths = [p for p in _paths(document) if not (p[0] == "tensors" and len(p) > 1 and p[1] % 7)]
    for path in [(), *paths]:
        wrong = copy.deepcopy(document)
        if path:
            _at(wrong, path[:-1])[path[-1]] = {"no": ["such"]}
            assert not validator.is_valid(wrong), path
        here = _at(document, path)
        if isinstance(here, dict):
            for key in here:
                less = copy.deepcopy(document)
                del _at(less, path)[key]
                assert not validator.is_valid(less), (path, key)
            more = copy.deepcopy(document)
            _at(more, path)["unheard_of"] = 1
            assert not validator.is_valid(more), path
