"""huggingface_hub's own settings hold: token, endpoint, cache, offline, proxies, timeouts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.calls import Called, call
from support.fake_hub import COMMIT, FakeHub, Repo
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

from llamatools.errors import IOFailed
from llamatools.hub import library
from llamatools.hub.library import Answer
from llamatools.hub.name import RepositoryName
from llamatools.hub.refusals import Place
from llamatools.hub.wire import Wire

NAME = "org/tiny"
TOKEN = "hf_right"


@pytest.fixture
def repo(hub: FakeHub, tmp_path: Path) -> Repo:
    return hub.publish(NAME, write_hf(Tiny(), tmp_path / "hf"))


def ask(name: str = NAME) -> Called:
    return call("inspect", name, "--kv-memory", "--json")


def tokens(hub: FakeHub) -> set[str | None]:
    return {a.headers.get("authorization") for a in hub.asked}


def test_tokens(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repo.token, repo.private = TOKEN, True
    assert ask().code == 3
    settings.setenv("HF_TOKEN", TOKEN)
    seen = ask()
    assert seen.code == 0
    assert "with your token" in seen.err
    assert TOKEN not in seen.err + seen.out
    assert tokens(hub) == {None, f"Bearer {TOKEN}"}
    settings.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN + "\n")  # where `hf auth login` keeps it
    assert ask().code == 0
    settings.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hub.asked.clear()
    seen = ask()
    assert seen.code == 3
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN keeps a token from being sent" in seen.err
    assert tokens(hub) == {None}


def test_tokens_stay_with_the_hub(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    """Large files lie on another host, which has no business with it."""
    repo.token = TOKEN
    settings.setenv("HF_TOKEN", TOKEN)
    with FakeHub().serving() as cdn:
        cdn.repos[NAME] = Repo(repo.files)
        hub.cdn = cdn
        seen = ask()
        assert seen.code == 0, seen.err
        assert [a.path.partition("?")[0] for a in cdn.asked] == [
            f"/{NAME}/resolve/{COMMIT}/model.safetensors"
        ]
        assert tokens(cdn) == {None}
        assert tokens(hub) == {f"Bearer {TOKEN}"}
        assert cdn.asked[0].range == hub.fetched(".safetensors")[0].range is not None
        assert seen.json["source"]["requests"] == 3
        # The control: the same host may have it.
        hub.cdn = None
        hub.fails("config.json", lambda h: h.answer(307, {"Location": h.path + "?again"}))
        hub.faults["config.json"].append(lambda h: False)
        hub.asked.clear()
        assert ask().code == 0
        again = [a for a in hub.asked if a.path.endswith("?again")]
        assert [a.headers.get("authorization") for a in again] == [f"Bearer {TOKEN}"]


def test_no_way_back_from_encryption(hub: FakeHub) -> None:
    secure = replace(library.settings(), endpoint="https://hub.example")
    wire = Wire(Place(RepositoryName(NAME), secure, with_token=False), {})
    wire._must_be(Answer(200, {}, "https://cdn.example/x", iter(())), "x", 200)
    with pytest.raises(IOFailed, match="nothing is encrypted"):
        wire._must_be(Answer(200, {}, "http://cdn.example/x", iter(())), "x", 200)


def _cache(repo: Repo, at: Path, *names: str, revision: str = "main") -> Path:
    """Files in the cache as huggingface_hub lays it out."""
    home = at / f"models--{NAME.replace('/', '--')}"
    for name in names:
        blob = home / "blobs" / f"{abs(hash(name)):x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        content = repo.files[name]
        assert isinstance(content, bytes)
        blob.write_bytes(content)
        link = home / "snapshots" / repo.commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(repo.commit)
    return home


def test_what_the_cache_has_is_not_fetched(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    without = ask().json
    _cache(repo, tmp_path / "cache", "config.json")
    hub.asked.clear()
    assert ask().json["weights"] == without["weights"]
    assert hub.fetched("config.json") == []
    assert len(hub.fetched(".safetensors")) == 1
    _cache_more = tmp_path / "cache" / "models--org--tiny"
    link = _cache_more / "snapshots" / repo.commit / "model.safetensors"
    whole = repo.files["model.safetensors"]
    assert isinstance(whole, bytes)
    (_cache_more / "blobs" / "1").write_bytes(whole)
    link.symlink_to("../../blobs/1")
    hub.asked.clear()
    found = ask().json
    assert found["weights"] == without["weights"]
    assert len(hub.asked) == 1  # which commit is it?
    assert [f["cached"] for f in found["source"]["files"]] == [True, True]
    # The control: of another commit, nothing is taken.
    repo.commit = "d" * 40
    hub.asked.clear()
    assert ask().code == 0
    assert len(hub.asked) == 3


def test_pickles_in_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    """Whole files tell more than a config."""
    repo = hub.publish(NAME, write_meta(Tiny(), tmp_path / "meta", 2))
    assert ask().json["weights"]["stored"] is None
    _cache(repo, tmp_path / "cache", *repo.files)
    local = call("inspect", tmp_path / "meta", "--kv-memory", "--json").json
    assert ask().json["weights"] == local["weights"]
    assert hub.fetched(".pth") == []


@pytest.mark.parametrize("revision", ["main", "v2", "commit"])
def test_offline(
    revision: str, hub: FakeHub, repo: Repo, tmp_path: Path, settings: pytest.MonkeyPatch
) -> None:
    settings.setattr(constants, "HF_HUB_OFFLINE", True)
    name = NAME if revision == "main" else f"{NAME}@{revision}"
    name = name.replace("@commit", f"@{repo.commit}")
    seen = ask(name)
    assert seen.code == 4
    assert "HF_HUB_OFFLINE is set" in seen.err
    assert f"hf download {NAME}" in seen.err
    assert NAME in seen.err
    _cache(repo, tmp_path / "cache", *repo.files, revision=revision)
    seen = ask(name)
    assert seen.code == 0, seen.err
    local = call("inspect", tmp_path / "hf", "--kv-memory", "--json").json
    assert seen.json["weights"] == local["weights"]
    source = seen.json["source"]
    assert (source["commit"], source["requests"], source["bytes"]) == (repo.commit, 0, 0)
    assert any("offline, from the cache" in n for n in seen.json["notes"])
    assert call("inspect", name).code == 0
    assert hub.asked == []
    settings.setattr(constants, "HF_HUB_OFFLINE", False)  # the control
    ask(name)
    assert hub.asked != []


def test_offline_with_a_part(
    hub: FakeHub, repo: Repo, tmp_path: Path, settings: pytest.MonkeyPatch
) -> None:
    settings.setattr(constants, "HF_HUB_OFFLINE", True)
    repo.files["model.safetensors.index.json"] = (
        b'{"weight_map": {"x": "model-00001-of-00001.safetensors"}}'
    )
    _cache(repo, tmp_path / "cache", "config.json", "model.safetensors.index.json")
    seen = ask()
    assert seen.code == 4
    assert "the cache does not suffice" in seen.err
    assert "model-00001-of-00001.safetensors" in seen.err
    assert NAME in seen.err


def test_offline_with_a_config(
    hub: FakeHub, repo: Repo, tmp_path: Path, settings: pytest.MonkeyPatch
) -> None:
    settings.setattr(constants, "HF_HUB_OFFLINE", True)
    _cache(repo, tmp_path / "cache", "config.json")
    seen = ask()
    assert seen.code == 0
    assert "no weights in the cache: by config.json alone" in seen.json["notes"]
    assert seen.json["weights"]["loaded"]["kind"] == "estimate"
    assert seen.json["contexts"][0]["per_gpu"]["weights"]["kind"] == "estimate"
    _cache(repo, tmp_path / "cache", "model.safetensors")  # the control
    seen = ask()
    assert seen.json["weights"]["loaded"]["kind"] == "exact"
    assert not any("no weights" in n for n in seen.json["notes"])


def _run(tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what is read from the environment as it starts."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(tmp_path / "home"), "NO_COLOR": "1", **more}
    command = [sys.executable, "-m", "llamatools", "inspect", NAME, "--kv-memory"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_from_the_environment(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    repo.token, repo.private = TOKEN, True
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert "HF_HUB_OFFLINE is set" in done.stderr
    (tmp_path / "home").mkdir(exist_ok=True)
    _cache(repo, tmp_path / "home" / "hub", *repo.files)
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_HUB_DOWNLOAD_TIMEOUT="soon")
    assert done.returncode == 2
    assert "HF_HUB_" in done.stderr
    assert "Traceback" not in done.stderr


def test_timeouts_from_the_environment(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.delay = 1.5
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_HUB_ETAG_TIMEOUT="1")
    assert done.returncode == 4
    assert "did not answer in time" in done.stderr
    done = _run(tmp_path, HF_ENDPOINT=hub.url, HF_HUB_ETAG_TIMEOUT="5")
    assert done.returncode == 0


def test_proxies(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    """The proxy is asked for an address that only it can know."""
    done = _run(tmp_path, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url)
    assert done.returncode == 0, done.stderr
    assert all(a.path.startswith("http://hub.invalid/") for a in hub.asked)
    done = _run(
        tmp_path, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url, NO_PROXY="hub.invalid"
    )
    assert done.returncode == 4
    assert "hub.invalid is a name that cannot be resolved" in done.stderr
    done = _run(tmp_path, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="http://[")
    assert done.returncode in (2, 4)
    assert "Traceback" not in done.stderr and "defect" not in done.stderr


def test_nothing_is_written(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    assert _run(tmp_path, HF_ENDPOINT=hub.url, TMPDIR=str(tmp_path / "t")).returncode == 0
    assert not (tmp_path / "t").exists()
    assert not (tmp_path / "home").exists()
