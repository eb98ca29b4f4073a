"""Digests that huggingface_hub left: names of blobs in its cache, notes beside a download."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from check_kit import blamed, flipped, kinds
from support.calls import call
from support.tiny import Tiny
from support.tiny_files import write_hf

import llamatools


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _digest(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else _git(data)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot as the cache has it."""
    source = write_hf(Tiny(), tmp_path / "source")
    (source / "README.md").write_text("# Tiny")
    repository = tmp_path / "hub/models--org--tiny"
    (repository / "blobs").mkdir(parents=True)
    out = repository / "snapshots" / ("1" * 40)
    (out / "original").mkdir(parents=True)
    for file in source.iterdir():
        data = file.read_bytes()
        digest = _digest(file.name, data)
        (repository / "blobs" / digest).write_bytes(data)
        (out / file.name).symlink_to(f"../../blobs/{digest}")
    (repository / "blobs" / _git(b"{}")).write_bytes(b"{}")
    (out / "original/params.json").symlink_to(f"../../../blobs/{_git(b'{}')}")
    return out


def test_git_agrees_on_the_names_of_small_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some\nlines\n")
    done = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _git(file.read_bytes())


def test_a_snapshot(snapshot: Path) -> None:
    found = llamatools.check(snapshot)
    assert found.problems == ()
    assert (found.by, found.files) == (("the hub's cache",), 4)
    for link in [p for p in snapshot.rglob("*") if p.is_symlink()]:
        name = str(link.relative_to(snapshot))
        sound = link.read_bytes()
        for at in {0, len(sound) // 2, len(sound) - 1}:
            flipped(link.resolve(), at)
            assert kinds(snapshot) == {name: {"digest"}}
            link.write_bytes(sound)
        link.write_bytes(sound[:-1])
        assert blamed(snapshot) == {name}
        link.write_bytes(sound)
    assert llamatools.check(snapshot).holds


def test_weights_that_did_not_come_from_the_hub(snapshot: Path) -> None:
    (snapshot / "model-00001-of-00001.safetensors").write_bytes(b"?")
    assert kinds(snapshot)["model-00001-of-00001.safetensors"] == {"unlisted"}


def test_a_snapshot_with_parts_that_were_not_fetched(snapshot: Path) -> None:
    one = snapshot / "model.safetensors"
    one.rename(snapshot / "model-00001-of-00002.safetensors")
    assert kinds(snapshot) == {".": {"incomplete"}}
    assert "of 2 numbered files, 2 is missing" in call("check", snapshot).out


def test_links_out_of_the_cache(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"?")
    (snapshot / "pytorch_model.bin").symlink_to(tmp_path / "elsewhere")
    assert "pytorch_model.bin" in blamed(snapshot)


def _downloaded(tmp_path: Path) -> Path:
    """A folder with notes as huggingface_hub leaves them."""
    out = write_hf(Tiny(), tmp_path / "local")
    notes = out / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    for file in (p for p in out.iterdir() if p.is_file()):
        digest = _digest(file.name, file.read_bytes())
        (notes / f"{file.name}.metadata").write_text(f"{'1' * 40}\n{digest}\n1700000000.0\n")
        (notes / f"{file.name}.lock").touch()
    return out


def test_a_download_into_a_folder(tmp_path: Path) -> None:
    out = _downloaded(tmp_path)
    found = llamatools.check(out)
    assert found.problems == ()
    assert found.by == (".cache/huggingface/download",)
    for file in (p for p in out.iterdir() if p.is_file()):
        flipped(file, 5)
        assert kinds(out) == {file.name: {"digest"}}
        flipped(file, 5)
    (out / "config.json").unlink()
    assert kinds(out) == {"config.json": {"missing"}}


def test_notes_as_the_library_writes_them(tmp_path: Path) -> None:
    from huggingface_hub._local_folder import write_download_metadata

    out = write_hf(Tiny(), tmp_path / "local")
    for file in list(out.iterdir()):
        digest = _digest(file.name, file.read_bytes())
        write_download_metadata(out, file.name, "1" * 40, digest)
    assert llamatools.check(out).problems == ()
    assert llamatools.check(out).files == 2
    flipped(out / "model.safetensors", 1000)
    assert blamed(out) == {"model.safetensors"}


@pytest.mark.parametrize(
    "text", ["", "1\n", "1\nnothing\n3\n", "1\n" + "0" * 63 + "\n", "x" * 5000]
)
def test_notes_that_make_no_sense(text: str, tmp_path: Path) -> None:
    out = _downloaded(tmp_path)
    name = ".cache/huggingface/download/config.json.metadata"
    (out / name).write_text(text)
    assert kinds(out) == {name: {"document"}}


def test_notes_behind_a_link_are_not_read(tmp_path: Path) -> None:
    out = _downloaded(tmp_path)
    (out / ".cache").rename(tmp_path / "away")
    (out / ".cache").symlink_to(tmp_path / "away")
    assert call("check", out).code == 3
