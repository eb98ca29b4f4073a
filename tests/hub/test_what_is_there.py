"""Repositories that hold something else than was looked for: what is said, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.calls import Called, call
from support.fake_hub import FakeHub, Holes, Repo
from support.tiny import Tiny
from support.tiny_files import hf_config

from llamatools.hub.name import meant

NAME = "org/tiny"
CONFIG = json.dumps(hf_config(Tiny())).encode()


def ask(name: str = NAME) -> Called:
    return call("inspect", name, "--kv-memory", "--json")


def hint(seen: Called) -> str:
    assert seen.code == 3
    return str(seen.err.partition("hint:")[2])


@pytest.mark.parametrize("size", [100, 10**9])
def test_gguf_goes_by_the_config(size: int, hub: FakeHub) -> None:
    """Whatever its size: the files are often the same model several times."""
    files: dict[str, bytes | Holes] = {
        "model-Q4_K.gguf": Holes(b"GGUF", size), "model-Q8.gguf": Holes(b"GGUF", size),
    }  # fmt: skip
    hub.repos[NAME] = Repo({"config.json": CONFIG, **files})
    seen = ask()
    assert seen.code == 0, seen.err
    assert seen.json["weights"]["loaded"]["kind"] == "estimate"
    assert "GGUF is not read" in seen.json["weights"]["loaded"]["source"]
    assert any("weights in GGUF (model-Q4_K.gguf, model-Q8" in n for n in seen.json["notes"])
    assert hub.fetched(".gguf") == []
    assert call("inspect", NAME).code == 3
    hub.repos[NAME] = Repo(files)
    assert "the repository of the original" in hint(ask())
    assert "convert" not in hint(call("inspect", NAME))


def test_weights_in_folders_are_named(hub: FakeHub) -> None:
    nested = {"llama/config.json": CONFIG, "llama/model.safetensors": b"x", "b/\x1b.bin": b"x",
              "docs/a.txt": b""}  # fmt: skip
    hub.repos[NAME] = Repo(dict(nested))
    seen = ask()
    assert "no weights but in subfolders (b, llama): subfolders are not read" in seen.err
    assert "download the repository" in hint(seen)
    hub.repos[NAME] = Repo({"config.json": CONFIG, **nested})
    seen = ask()
    assert seen.code == 0
    assert seen.json["weights"]["loaded"]["kind"] == "estimate"
    assert (
        "no weights in the repository but in b, llama: by config.json alone" in seen.json["notes"]
    )
    hub.repos[NAME] = Repo({"docs/a.txt": b"", "README.md": b""})  # the control
    seen = ask()
    assert "subfolder" not in seen.err
    assert "found README.md" in seen.err
    assert "give the folder" not in hint(seen)


def _indexed(where: dict[str, object]) -> Repo:
    index = json.dumps({"weight_map": where}).encode()
    return Repo({"config.json": CONFIG, "model.safetensors.index.json": index})


def test_shards_that_nobody_can_fetch(hub: FakeHub) -> None:
    numbered = Repo({"config.json": CONFIG, "model-00001-of-00002.safetensors": b"x"})
    for repo in (_indexed({"a": "model-00001-of-00002.safetensors"}), numbered):
        hub.repos[NAME] = repo
        for seen in (ask(), call("inspect", NAME)):
            assert "missing" in seen.err
            assert "fetch" not in hint(seen)
            assert "the repository lacks them" in hint(seen)


@pytest.mark.parametrize("files", [1, 3, 30])
def test_a_strange_file_is_named_once(files: int, hub: FakeHub) -> None:
    hub.repos[NAME] = _indexed({f"t{i}": f"../{i % files}.safetensors" for i in range(90)})
    problems = ask().json["error"]["problems"]
    assert len(problems) == min(files, 21)  # the last says how many more
    assert all("expected a plain file name, found '../" in p for p in problems[:20])


ADDRESSES = {
    "https://huggingface.co/org/tiny": "org/tiny",
    "http://www.huggingface.co/org/tiny/": "org/tiny",
    "https://hf.co/org/tiny/tree/v1.0": "org/tiny@v1.0",
    "https://huggingface.co/org/tiny/blob/main/config.json": "org/tiny",
    "hf.co/org/tiny": "org/tiny",
    "org/tiny/": "org/tiny",
    "huggingface.co/org/tiny.git": "org/tiny",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses_are_no_names(text: str, hub: FakeHub) -> None:
    for words in ((), ("--kv-memory",)):
        seen = call("inspect", text, *words)
        assert "no such file or folder" in seen.err
        assert hint(seen).strip() == f"did you mean {ADDRESSES[text]}?"
    assert hub.asked == []


@pytest.mark.parametrize(
    "text",
    [
        "/org/tiny",
        "./org/tiny",
        "a/b/c",
        "https://x",
        "https://example.com/x",
        "org/../x",
        "org/x--y/",
        "x",
        "",
        "/",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert meant(text) is None


def test_a_path_that_begins_here_is_not_asked_for_elsewhere(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[NAME] = Repo({"config.json": CONFIG})
    (tmp_path / "org").mkdir()
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--kv-memory",)):
        seen = call("inspect", NAME, *words)
        assert seen.code == 3 and "no such file or folder in org, which is here" in seen.err
        assert hint(seen).strip() == f"a hub is asked for {NAME}@main"
    assert hub.asked == []
    assert ask(f"{NAME}@main").code == 0 and hub.asked != []
