"""Where output may go, and that the input is never touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.calls import call, leftovers, tree
from support.tiny_files import Tiny, write_hf

from llamatools.engine import publish, rename
from llamatools.engine.newfile import write_document
from llamatools.engine.place import staging
from llamatools.errors import IOFailed, OutputExists


def test_an_existing_output_is_kept(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    done = call("convert", hf, out, "--to", "meta")
    assert done.code == 5
    assert "exists already" in done.err
    assert tree(out) == {"mine": b"precious"}
    assert leftovers(out) == ["out"]


def test_force_replaces_it(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("convert", hf, out, "--to", "meta").code == 0
    assert call("convert", hf, out, "--to", "hf", "--force").code == 0
    assert sorted(tree(out)) == ["config.json", "llamatools.json", "model.safetensors"]
    assert leftovers(out) == ["out"]


def test_force_where_two_names_cannot_be_exchanged(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call("convert", hf, out, "--to", "meta").code == 0
    monkeypatch.setattr(rename, "_renameat2", lambda old, new, flag: errno.ENOSYS)
    assert call("convert", hf, out, "--to", "hf", "--force").code == 0
    assert "model.safetensors" in tree(out)
    assert leftovers(out) == ["out"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "link to the input"])
def test_force_replaces_folders_only(kind: str, hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        target = {"link": "elsewhere", "dangling link": "nowhere", "link to the input": "hf"}[kind]
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / target)
    before = tree(hf)
    done = call("convert", hf, out, "--to", "meta", "--force")
    assert done.code in (2, 5), done.err
    assert out.is_symlink() or out.read_text() == "precious"
    assert tree(hf) == before


def test_someone_else_takes_the_name_meanwhile(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = rename.sync_folder

    def sync(folder: Path) -> None:
        real(folder)
        out.mkdir(exist_ok=True)

    monkeypatch.setattr(rename, "sync_folder", sync)
    assert call("convert", hf, out, "--to", "hf").code == 5
    assert list(out.iterdir()) == []
    assert leftovers(out) == ["out"]


INSIDE: dict[str, Callable[[Path], Path]] = {
    "equal": lambda src: src,
    "with a dot": lambda src: src / ".",
    "through its parent": lambda src: src / ".." / src.name,
    "inside": lambda src: src / "out",
    "deep inside": lambda src: src / "a" / "out",
    "around": lambda src: src.parent,
    "far around": lambda src: src.parent.parent,
    "one of its files": lambda src: src / "model.safetensors",
}


@pytest.mark.parametrize("where", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("through_link", [False, True], ids=["", "link"])
def test_output_on_in_or_around_the_input(
    where: Callable[[Path], Path], force: tuple[str, ...], through_link: bool, hf: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    (hf / "a").mkdir()
    before = tree(hf)
    out = where(hf)
    source = hf
    if through_link:
        source = tmp_path / "alias"
        source.symlink_to(hf)
    done = call("convert", source, out, "--to", "meta", *force)
    assert done.code == 2, done.err
    assert "error: " in done.err
    assert tree(hf) == before


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_a_single_file_is_its_folder(force: tuple[str, ...], hf: Path) -> None:
    before = tree(hf)
    done = call("convert", hf / "model.safetensors", hf, "--to", "meta", *force)
    assert done.code == 2
    assert tree(hf) == before


def test_a_parent_that_is_missing(hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "no" / "out", "--to", "hf")
    assert done.code == 2
    assert "no such folder" in done.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("out", [".", "", "./"])
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_the_current_folder(
    out: str, force: tuple[str, ...], hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine").write_text("precious")
    monkeypatch.chdir(here)
    done = call("convert", hf, out, "--to", "hf", *force)
    assert tree(here)["mine"] == b"precious"
    assert done.code in (2, 5), done.err


def test_a_read_only_input(hf: Path, tmp_path: Path) -> None:
    """Nothing is written there, not even for a moment."""
    before = tree(hf)
    for file in hf.iterdir():
        file.chmod(0o400)
    hf.chmod(0o500)
    stamp = hf.stat().st_mtime_ns
    try:
        assert call("inspect", hf).code == 0
        assert call("fingerprint", hf, "-q").code == 0
        assert call("convert", hf, tmp_path / "out", "--to", "meta", "-q").code == 0
    finally:
        hf.chmod(0o700)
    assert hf.stat().st_mtime_ns == stamp
    assert tree(hf) == before


def test_output_through_a_linked_parent(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "in")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert call("convert", source, tmp_path / "link" / "out", "--to", "hf", "-q").code == 0
    assert "config.json" in tree(tmp_path / "real" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_may_not_be_written(hf: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(0o500)
    done = call("convert", hf, locked / "out", "--to", "hf")
    assert done.code == 4
    assert "Permission denied" in done.err


def test_permissions_of_the_output(hf: Path, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        assert call("convert", hf, tmp_path / "out", "--to", "hf", "-q").code == 0
    finally:
        os.umask(old)
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    assert modes == {0o644}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


# --- one file -------------------------------------------------------------------------------------


def _publish_file(out: Path, data: bytes, *, force: bool) -> None:
    with staging(out, force=force) as folder:
        write_document(folder / out.name, data)
        publish.publish_file(folder / out.name, out, force=force)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_a_file_replaces_a_file_in_one_step(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file system can do, the name is never without a file, and nothing is left."""
    if not exchange:
        monkeypatch.setattr(rename, "_renameat2", lambda old, new, flag: errno.ENOSYS)
    moves: list[tuple[Path, Path]] = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: moves.append((a, b)) or real(a, b))
    out = tmp_path / "out.html"
    out.write_bytes(b"old")
    _publish_file(out, b"new", force=True)
    assert out.read_bytes() == b"new"
    assert leftovers(out) == ["out.html"]
    assert [(a.name, b) for a, b in moves] == [("out.html", out)]
    assert moves[0][0].parent != tmp_path, "the old one was never moved away"


def test_a_file_by_force_where_there_is_none(tmp_path: Path) -> None:
    _publish_file(tmp_path / "out", b"new", force=True)
    assert tree(tmp_path) == {"out": b"new"}


def test_a_file_without_force_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    for known in (True, False):
        if not known:
            monkeypatch.setattr(rename, "_renameat2", lambda old, new, flag: errno.ENOSYS)
        with pytest.raises(OutputExists):
            _publish_file(out, b"new", force=False)
        assert tree(tmp_path) == {"out": b"precious"}


@pytest.mark.parametrize("kind", ["folder", "full folder", "link", "dangling link"])
def test_a_file_by_force_replaces_plain_files_only(kind: str, tmp_path: Path) -> None:
    """Even one that took the name after the first check."""
    out = tmp_path / "out"
    (tmp_path / "precious").write_text("mine")
    if kind.endswith("folder"):
        out.mkdir()
        if kind == "full folder":
            (out / "mine").write_text("precious")
    else:
        out.symlink_to(tmp_path / ("precious" if kind == "link" else "nowhere"))
    before = tree(tmp_path)
    with pytest.raises(OutputExists):
        _publish_file(out, b"new", force=True)
    assert tree(tmp_path) == before
    assert out.is_symlink() or out.is_dir()


def test_replacing_a_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(old: Path, new: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", fails)
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(IOFailed, match="Read-only"):
        _publish_file(out, b"new", force=True)
    assert tree(tmp_path) == {"out": b"old"}
