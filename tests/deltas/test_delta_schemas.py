"""What make-delta writes and apply-delta prints obeys its schema, which has teeth."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from delta_kit import BASE, with_numbers, write
from support.calls import call
from support.schemas import check, parent, paths
from support.tiny import Tiny
from support.vocabularies import sentencepiece_model


@pytest.mark.parametrize("kind", ["add", "xor"])
def test_deltas_and_their_application(kind: str, tmp_path: Path) -> None:
    large = Tiny(style="llama-1", kv_heads=8, vocab=420)
    b = write(with_numbers(large, 1), tmp_path / "b", "meta2")
    t = write(with_numbers(large, 2), tmp_path / "t", "meta1")
    (t / "tokenizer.model").write_bytes(sentencepiece_model(420))
    words = ("make-delta", b, t, tmp_path / "d", "--kind", kind, "--json")
    assert check("plan", call(*words, "--dry-run").json) == []
    done = call(*words)
    assert check("delta", done.json) == []
    assert done.json["tokenizer"]["tokens"] == 420
    words = ("apply-delta", b, tmp_path / "d", tmp_path / "out", "--json")
    assert check("plan", call(*words, "--dry-run").json) == []
    done = call(*words)
    assert check("manifest", done.json) == []
    assert done.json == json.loads((tmp_path / "out/llamatools.json").read_text())
    done = call(*words)
    assert check("error", done.json) == []
    assert done.json["error"]["kind"] == "output-exists"


def xor_files(folder: Path) -> tuple[Path, Path]:
    base = write(with_numbers(BASE, 1), folder / "base", "meta1")
    key = (base / "consolidated.00.pth").read_bytes()
    plain = write(with_numbers(BASE, 2), folder / "plain")
    delta = folder / "delta"
    delta.mkdir()
    for file in plain.iterdir():
        data = file.read_bytes()
        digest = hashlib.sha256(data)
        bits = bytes(x ^ key[i % len(key)] for i, x in enumerate(data))
        (delta / f"{file.name}.{digest.hexdigest()}.enc").write_bytes(digest.digest() + bits)
    return base, delta


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("documents")
    base, delta = xor_files(folder)
    t = write(with_numbers(BASE, 2), folder / "t")
    return {
        "decoded": call("apply-delta", base, delta, folder / "o", "--json").json,
        "delta": call("make-delta", base, t, folder / "d", "--json").json,
    }


def test_xor_files(tmp_path: Path) -> None:
    base, delta = xor_files(tmp_path)
    words = ("apply-delta", base, delta, tmp_path / "out", "--json")
    dry, done = call(*words, "--dry-run"), call(*words)
    assert check("decoded", dry.json) == check("decoded", done.json) == []
    assert dry.json["model"] is None
    assert {**done.json, "model": None} == dry.json


@pytest.mark.parametrize("name", ["delta", "decoded"])
def test_a_mutilated_document_is_refused(name: str, documents: dict[str, Any]) -> None:
    document = documents[name]
    assert check(name, document) == []
    for path in paths(document):
        if "config" in path:
            continue
        wrong, more = copy.deepcopy(document), copy.deepcopy(document)
        parent(wrong, path)[path[-1]] = {"no": ["such", "thing"]}
        assert check(name, wrong), path
        if isinstance(parent(more, path), dict):
            parent(more, path)["unheard_of"] = 1
            assert check(name, more), path


@pytest.mark.parametrize("name", ["delta", "decoded"])
def test_a_document_with_a_hole_is_refused(name: str, documents: dict[str, Any]) -> None:
    for key in documents[name]:
        assert check(name, {k: v for k, v in documents[name].items() if k != key}), key
