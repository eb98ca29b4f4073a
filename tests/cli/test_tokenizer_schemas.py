"""Reports on tokenizers, and the files written for them, obey their schemas; which have teeth."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import call
from support.schemas import check
from support.vocabularies import ranks, sentencepiece_model


@pytest.fixture(params=["ranks", "sentencepiece"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(ranks() if request.param == "ranks" else sentencepiece_model())
    return path


def documents(source: Path) -> Iterator[tuple[str, Any]]:
    """(schema, document) for everything that is printed and written for one tokenizer."""
    out = source.parent
    yield "tokenizer-inspect", call("tokenizer", "inspect", source, "--json").json
    words = ("tokenizer", "convert", source, out / "hf", "--to", "hf", "--instruct", "--json")
    yield "tokenizer-convert", call(*words).json
    for name in ("tokenizer", "tokenizer_config", "special_tokens_map"):
        yield name, json.loads((out / f"hf/{name}.json").read_text())
    yield "tokenizer-inspect", call("tokenizer", "inspect", out / "hf", "--json").json
    back = call("tokenizer", "convert", out / "hf", out / "m", "--to", "meta", "--json")
    yield "tokenizer-convert", back.json
    yield "tokenizer-compare", call("tokenizer", "compare", source, out / "hf", "--json").json
    other = out / "other.model"
    other.write_bytes(sentencepiece_model(460))
    yield "tokenizer-compare", call("tokenizer", "compare", source, other, "--json").json
    small = out / "small.model"
    small.write_bytes(sentencepiece_model(420))
    merged = call("tokenizer", "merge", small, other, out / "merged", "--json", "--to", "hf")
    yield "tokenizer-merge", merged.json


def test_everything_obeys_its_schema(source: Path) -> None:
    for name, document in documents(source):
        assert check(name, document) == [], name


def test_schemas_have_teeth(source: Path) -> None:
    """A key too many or too few at the top is noticed, wherever keys are not optional."""
    for name, document in documents(source):
        assert check(name, {**document, "unknown": 1}), name
        for key in document:
            without = copy.deepcopy(document)
            del without[key]
            optional = name == "special_tokens_map" or key.endswith(("_token", "chat_template"))
            assert optional or check(name, without), (name, key)
