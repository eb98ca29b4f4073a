"""Everything printed with --json and every JSON file written obeys its schema, which has teeth."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.calls import call, edit_json
from support.schemas import SCHEMAS, check, parent, paths
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

MODELS = [
    Tiny(),
    Tiny(style="llama-2", heads=4, kv_heads=4, attention_bias=True),
    Tiny(style="llama-3.2", tied=True, mlp_bias=True),
]


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_are_schemas(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:llamatools:{name}:1"


def test_there_is_one_for_everything() -> None:
    assert set(SCHEMAS) >= {
        "params", "config", "index", "manifest", "inspect", "plan", "fingerprint", "error",
    }  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_reports_and_files(model: Tiny, layout: str, tmp_path: Path) -> None:
    write = write_hf if layout == "hf" else lambda m, p: write_meta(m, p, 2)
    source = write(model, tmp_path / "in")
    assert check("inspect", call("inspect", source, "--json").json) == []
    assert check("fingerprint", call("fingerprint", source, "--json").json) == []
    for to, more in (("hf", ("--max-shard-size", "5kB")), ("meta", ()), ("safetensors", ())):
        for dtype in ("keep", "fp16"):
            out = tmp_path / f"{to}-{dtype}"
            words = ("convert", source, out, "--to", to, "--dtype", dtype, "--json", *more)
            plan = call(*words, "--dry-run")
            assert check("plan", plan.json) == []
            done = call(*words)
            assert check("manifest", done.json) == []
            assert done.json == _load(out / "llamatools.json")
            for file in out.glob("*.json"):
                kinds = {"config.json": "config", "params.json": "params"}
                kind = "index" if "index" in file.name else kinds.get(file.name, "")
                if kind:
                    assert check(kind, _load(file)) == [], file.name


def test_two_fingerprints(hf: Path, meta: Path, tmp_path: Path) -> None:
    other = write_hf(Tiny(vocab=41), tmp_path / "other")
    for words in ((hf, meta), (hf, other), (hf, other, "--tensors")):
        assert check("fingerprint", call("fingerprint", *words, "--json").json) == []


def _failures(hf: Path, tmp_path: Path) -> Iterator[tuple[object, ...]]:
    yield "inspect", tmp_path / "nowhere"
    yield "convert", hf, hf, "--to", "hf"
    yield "convert", hf, tmp_path, "--to", "hf"
    yield "convert", hf, tmp_path / "o", "--to", "hf", "--shards", 3
    yield "convert", hf, tmp_path / "o", "--to", "meta", "--shards", 3
    (tmp_path / "there").mkdir()
    yield "convert", hf, tmp_path / "there", "--to", "meta"
    edit_json(hf / "config.json", model_type="gpt2")
    yield "inspect", hf
    edit_json(hf / "config.json", model_type="llama", rope_scaling={"type": "linear", "factor": 2})
    yield "convert", hf, tmp_path / "o", "--to", "meta"


def test_failures(hf: Path, tmp_path: Path) -> None:
    kinds = set()
    for words in _failures(hf, tmp_path):
        done = call(*words, "--json")
        assert done.code != 0
        assert check("error", done.json) == []
        assert done.json["error"]["exit_code"] == done.code
        assert f"error: {done.json['error']['problems'][0]}" in done.err
        kinds.add(done.json["error"]["kind"])
    assert kinds == {"bad-input", "usage", "output-exists", "unsupported", "not-representable"}


def test_wrong_words_are_failures_too(hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "o", "--to", "nonsense", "--json")
    assert done.code == 2
    assert check("error", done.json) == []


OPEN = {"found", "official", "dtypes", "by_group", "documents", "notes", "hint"}
"""Where a value may be of any type, or a key of any name."""


def _documents(source: Path, out: Path) -> dict[str, Any]:
    words = ("convert", source, out, "--to", "hf", "--dtype", "fp16", "--json")
    return {
        "inspect": call("inspect", source, "--json").json,
        "plan": call(*words, "--dry-run").json,
        "manifest": call(*words).json,
        "fingerprint": call("fingerprint", source, out, "--json", "--tensors").json,
        "error": call("inspect", out / "nowhere", "--json").json,
    }


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("documents")
    return _documents(write_meta(Tiny(), folder / "in", 2), folder / "out")


REPORTS = ("inspect", "plan", "manifest", "fingerprint", "error")


@pytest.mark.parametrize("name", REPORTS)
def test_a_mutilated_document_is_refused(name: str, documents: dict[str, Any]) -> None:
    """An object in place of any value, and a key that nobody knows beside any other."""
    document = documents[name]
    assert check(name, document) == []
    unnoticed = []
    for path in paths(document):
        if OPEN & set(path):
            continue
        wrong = copy.deepcopy(document)
        parent(wrong, path)[path[-1]] = {"no": ["such", "thing"]}
        if not check(name, wrong):
            unnoticed.append(path)
        more = copy.deepcopy(document)
        parent(more, path)["unheard_of"] = 1
        if not check(name, more):
            unnoticed.append((*path[:-1], "unheard_of"))
    assert unnoticed == []


@pytest.mark.parametrize("name", REPORTS)
def test_a_document_with_a_hole_is_refused(name: str, documents: dict[str, Any]) -> None:
    for key in documents[name]:
        if key not in ("equal", "different"):
            assert check(name, {k: v for k, v in documents[name].items() if k != key}), key


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("params", {}),
        ("params", {"dim": "64", "n_layers": 1, "n_heads": 1, "norm_eps": 1e-5}),
        ("params", {"dim": 64, "n_layers": 0, "n_heads": 1, "norm_eps": 1e-5}),
        ("config", {}),
        ("config", {"hidden_size": 0, "num_hidden_layers": 1, "num_attention_heads": 1}),
        ("index", {}),
        ("index", {"weight_map": {}}),
        ("index", {"weight_map": {"a": "../b"}}),
        ("index", {"weight_map": {"a": 1}}),
    ],
)
def test_bad_files_are_refused(name: str, document: object) -> None:
    assert check(name, document) != []
