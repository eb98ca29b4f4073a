"""What a repository is said to be, against the same files in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save_file
from support.calls import call, edit_json
from support.fake_hub import COMMIT, FakeHub
from support.tiny import Tiny
from support.tiny_files import hf_config, write_hf, write_meta

NAME = "org/tiny"
MODELS = [
    Tiny(),
    Tiny(style="llama-2", kv_heads=8, attention_bias=True, norm_dtype=torch.float32),
    Tiny(style="llama-3.2", tied=True),
]
MORE = ("--context", "1k,8k", "--gpu", "24GiB", "--tp", "2")


def ask(source: object, *more: object) -> Any:
    seen = call("inspect", source, "--kv-memory", "--json", *more)
    assert seen.code == 0, seen.err
    return seen.json


def answers(report: Any) -> Any:
    """All but where it is from, which a note tells as well."""
    found = {k: v for k, v in report.items() if k not in ("source", "notes")}
    return found, [n for n in report["notes"] if COMMIT[:12] not in n]


def shard(folder: Path, parts: int) -> Path:
    """The one file of a checkpoint as several, with an index."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where: dict[str, str] = {}
    for i in range(parts):
        name = f"model-{i + 1:05}-of-{parts:05}.safetensors"
        mine = {n: t for j, (n, t) in enumerate(sorted(tensors.items())) if j % parts == i}
        save_file(mine, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(mine, name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_as_a_folder(model: Tiny, parts: int, hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(model, tmp_path / "hf")
    if parts > 1:
        shard(local, parts)
    hub.publish(NAME, local)
    assert answers(ask(NAME, *MORE)) == answers(ask(local, *MORE))
    plain = [call("inspect", source, "--json") for source in (NAME, local)]
    assert [p.code for p in plain] == [0, 0]
    assert plain[0].json == plain[1].json
    assert call("inspect", NAME).out == call("inspect", local).out
    # The control: another model is told from it.
    hub.publish("org/other", write_hf(Tiny(ffn=96), tmp_path / "other"))
    assert answers(ask("org/other", *MORE)) != answers(ask(local, *MORE))


def test_where_it_is_from(hub: FakeHub, tmp_path: Path) -> None:
    local = shard(write_hf(Tiny(), tmp_path / "hf"), 3)
    hub.publish(NAME, local, revisions=("main", "v1.0"))
    source = ask(f"{NAME}@v1.0")["source"]
    files = sorted(source.pop("files"), key=lambda f: f["name"])
    assert source == {
        "kind": "repository", "name": f"{NAME}@v1.0", "repository": NAME, "revision": "v1.0",
        "commit": COMMIT, "host": f"127.0.0.1:{hub.port}", "requests": len(hub.asked),
        "bytes": hub.sent,
    }  # fmt: skip
    assert source["requests"] == 1 + 2 + 3
    assert files == [
        {"name": p.name, "bytes": p.stat().st_size, "cached": False}
        for p in sorted(local.iterdir())
    ]
    assert ask(NAME)["source"]["revision"] == "main"


def test_it_says_whom_it_asks_and_what_it_is(hub: FakeHub, tmp_path: Path) -> None:
    hub.publish(NAME, write_hf(Tiny(), tmp_path / "hf"))
    seen = call("inspect", NAME, "--kv-memory")
    first = seen.err.splitlines()[0]
    assert NAME in first and f"asking 127.0.0.1:{hub.port}" in first
    assert "with your token" not in first
    assert f"commit {COMMIT[:12]} of {NAME}" in seen.out
    assert "3 requests" in seen.out


def test_what_is_here_is_not_asked_for(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf(Tiny(), tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert ask(NAME)["source"]["kind"] == "checkpoint"
    for words in ("llama-3.1-8b", "nonsense", "./org/other", "a/b/c", "org/x--y", "org/x.git",
                  "org/../x", "org/x@../y", "org/x@", "-/-", "org/x\x1b", "http://x"):  # fmt: skip
        call("inspect", words, "--kv-memory")
        call("inspect", words)
    assert hub.asked == []
    call("inspect", "others/other", "--kv-memory")  # the control
    assert len(hub.asked) == 1


def test_weights_in_pickles_go_by_the_config(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    size = (local / "model.safetensors").stat().st_size
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    hub.publish(NAME, local)
    report = ask(NAME)
    alone = ask(local / "config.json")
    loaded = report["weights"]["loaded"]
    assert loaded["value"] == alone["weights"]["loaded"]["value"]
    assert (loaded["kind"], alone["weights"]["loaded"]["kind"]) == ("estimate", "exact")
    assert "config.json alone, in bf16" in loaded["source"]
    assert report["parameters"] == alone["parameters"]
    assert report["source"]["kind"] == "repository"
    (note,) = (n for n in report["notes"] if "pytorch_model.bin" in n)
    assert f"{size / 1000:.3g} kB by the listing" in note
    assert "by config.json alone, in bf16" in note
    assert hub.fetched(".bin") == []
    plain = call("inspect", NAME)
    assert plain.code == 3
    assert f"{NAME}/pytorch_model.bin: only headers of safetensors" in plain.err
    assert report["warnings"] == []
    edit_json(local / "config.json", torch_dtype="float32")
    hub.publish(NAME, local)
    assert any("--weights-dtype" in w for w in ask(NAME)["warnings"])


@pytest.mark.parametrize("at", ["", "original"])
def test_metas_files_go_by_their_params(at: str, hub: FakeHub, tmp_path: Path) -> None:
    write_meta(Tiny(), tmp_path / "repo" / at, 2)
    hub.publish(NAME, tmp_path / "repo")
    report = ask(NAME)
    alone = ask(tmp_path / "repo" / at / "params.json")
    assert report["architecture"] == alone["architecture"]
    loaded = report["weights"]["loaded"]
    assert loaded["value"] == alone["weights"]["loaded"]["value"]
    assert loaded["kind"] == "estimate"
    assert any("consolidated.00.pth, consolidated.01.pth" in n for n in report["notes"])
    assert hub.fetched(".pth") == []


def test_of_two_layouts_transformers_is_taken(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "repo")
    write_meta(Tiny(ffn=96), tmp_path / "repo" / "original", 1)
    hub.publish(NAME, local)
    write_hf(Tiny(), tmp_path / "hf")
    assert answers(ask(NAME)) == answers(ask(tmp_path / "hf"))
    assert not [a for a in hub.asked if "original" in a.path]


def test_a_file_beside_its_stale_index(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    (local / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    hub.publish(NAME, local)
    assert answers(ask(NAME)) == answers(ask(local))
    assert hub.fetched("index.json") == []


def test_weights_that_are_not_read_are_named(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    (local / "pytorch_model.bin").write_bytes(b"x")
    hub.publish(NAME, local)
    assert answers(ask(NAME)) == answers(ask(local))
    assert any("pytorch_model.bin" in n for n in ask(NAME)["notes"])


def test_a_config_alone(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    (local / "model.safetensors").unlink()
    hub.publish(NAME, local)
    report = ask(NAME)
    assert "no weights in the repository: by config.json alone" in report["notes"]
    assert report["weights"]["loaded"]["kind"] == "exact"


def test_quantised_weights(hub: FakeHub, tmp_path: Path) -> None:
    """Not converted; by headers and config, as a folder is."""
    model = Tiny(vocab=64)
    tensors = {n: t for n, t in model.truth.items() if "proj" not in n}
    for name, t in model.truth.items():
        if "proj" in name:
            packed = torch.zeros(t.shape[1] // 8, t.shape[0], dtype=torch.int32)
            tensors[name.replace("weight", "qweight")] = packed
    local = tmp_path / "q"
    local.mkdir()
    save_file(tensors, local / "model.safetensors")
    config = hf_config(model) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (local / "config.json").write_text(json.dumps(config))
    hub.publish(NAME, local)
    assert answers(ask(NAME)) == answers(ask(local))
    assert any("packed integer weights (gptq)" in w for w in ask(NAME)["warnings"])


def test_tensors_win(hub: FakeHub, tmp_path: Path) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    edit_json(local / "config.json", vocab_size=12345)
    hub.publish(NAME, local)
    assert answers(ask(NAME)) == answers(ask(local))
    assert any("the tensors are believed" in w for w in ask(NAME)["warnings"])


SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "memory.json").read_text())


def test_reports_obey_their_schema(hub: FakeHub, tmp_path: Path) -> None:
    hub.publish(NAME, write_hf(Tiny(), tmp_path / "hf"))
    hub.publish("org/meta", write_meta(Tiny(), tmp_path / "meta", 2), sizes=False)
    validator = Draft202012Validator(SCHEMA)
    for name in (NAME, "org/meta"):
        report = ask(name)
        assert [e.message for e in validator.iter_errors(report)] == []
        for key in report["source"]:  # the control: it has teeth
            source = {k: v for k, v in report["source"].items() if k != key}
            assert list(validator.iter_errors(report | {"source": source}))
            odd = report["source"] | {key: {"no": ["such", "thing"]}}
            assert list(validator.iter_errors(report | {"source": odd}))
        more = report["source"] | {"unheard_of": 1}
        assert list(validator.iter_errors(report | {"source": more}))
