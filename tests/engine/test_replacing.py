"""--force: one output for another, in one step where that can be; and nothing but an output."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calls import call, leftovers, tree

from llamatools.engine import rename
from llamatools.engine.place import place_of


@pytest.fixture
def out(hf: Path, tmp_path: Path) -> Path:
    """An output that is to be replaced."""
    assert call("convert", hf, tmp_path / "out", "--to", "meta", "-q").code == 0
    return tmp_path / "out"


def _no_exchange(monkeypatch: pytest.MonkeyPatch, real: Any = rename._renameat2) -> None:
    def renameat2(old: bytes, new: bytes, flag: int) -> int:
        return errno.EINVAL if flag == rename.EXCHANGE else real(old, new, flag)

    monkeypatch.setattr(rename, "_renameat2", renameat2)


@pytest.mark.parametrize("exchange", [True, False])
def test_what_is_replaced_outlives_the_fsync(
    exchange: bool, out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed when the new output is there to stay, and not before."""
    before, seen, real = tree(out), [], os.fsync
    home = place_of(out)

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == out.parent and "config.json" in tree(out):
            seen.append([tree(home / n) for n in ("output", "old") if (home / n).exists()])
        real(fd)

    if not exchange:
        _no_exchange(monkeypatch)
    monkeypatch.setattr(os, "fsync", fsync)
    done = call("convert", hf, out, "--to", "hf", "--force")
    assert done.code == 0
    assert seen == [[before]]
    assert leftovers(out) == ["out"]
    assert ("is replaced in two steps" in done.err) == (not exchange)


@pytest.mark.parametrize("exchange", [True, False])
def test_the_last_fsync_fails(
    exchange: bool, out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what was replaced stays where it is, and is gone with the next output."""
    before, real, home = tree(out), os.fsync, place_of(out)

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == out.parent:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as m:
        if not exchange:
            _no_exchange(m)
        m.setattr(os, "fsync", fsync)
        done = call("convert", hf, out, "--to", "hf", "--force")
    assert done.code == 4
    former = home / ("output" if exchange else "old")
    assert f"what it replaced is still there, as {former}" in done.err
    assert tree(former) == before and "config.json" in tree(out)
    assert call("convert", hf, out, "--to", "hf", "--force").code == 0
    assert leftovers(out) == ["out"]


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_killed_between_two_renames(
    force: tuple[str, ...], out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only moment without an output: whoever comes next puts the former one back."""
    before, real, moves = tree(out), os.rename, []

    def move(old: Path, new: Path) -> None:
        moves.append((old, new))
        if len(moves) == 2:
            raise _Killed
        real(old, new)

    with monkeypatch.context() as m:
        _no_exchange(m)
        m.setattr(os, "rename", move)
        m.setattr("llamatools.engine.place.Place.leave", lambda self, e: self._lock.release())
        with pytest.raises(_Killed):
            call("convert", hf, out, "--to", "hf", "--force")
    assert not out.exists() and tree(place_of(out) / "old") == before
    done = call("convert", hf, out, "--to", "hf", *force)
    assert "cut short; it is back" in done.err
    if force:
        assert done.code == 0 and "config.json" in tree(out) and leftovers(out) == ["out"]
    else:
        assert done.code == 5 and tree(out) == before


def test_the_second_rename_fails(out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, moves = tree(out), os.rename, []

    def move(old: Path, new: Path) -> None:
        moves.append((old, new))
        if len(moves) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    _no_exchange(monkeypatch)
    monkeypatch.setattr(os, "rename", move)
    assert call("convert", hf, out, "--to", "hf", "--force").code == 4
    assert tree(out) == before and leftovers(out) == ["out"]


def test_neither_way_back_nor_forth(out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even then the former output is not removed, and the next run puts it back."""
    before, real, moves = tree(out), os.rename, []

    def move(old: Path, new: Path) -> None:
        moves.append((old, new))
        if len(moves) >= 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    with monkeypatch.context() as m:
        m.setattr(rename, "_renameat2", lambda old, new, flag: errno.ENOSYS)
        m.setattr(os, "rename", move)
        done = call("convert", hf, out, "--to", "hf", "--force")
    assert done.code == 4
    assert f"what it replaced is still there, as {place_of(out) / 'old'}" in done.err
    assert tree(place_of(out) / "old") == before
    assert call("convert", hf, out, "--to", "hf").code == 5
    assert tree(out) == before


# --- what is never replaced -----------------------------------------------------------------------


def _home(folder: Path) -> None:
    (folder / "Documents").mkdir(parents=True)
    (folder / "Documents" / "thesis.tex").write_text("precious")
    (folder / "model.safetensors").write_text("precious")


def _settings(folder: Path) -> None:
    folder.mkdir()
    (folder / ".bashrc").write_text("precious")


def _project(folder: Path) -> None:
    (folder / ".git").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights.bin").write_text("precious")


@pytest.mark.parametrize("make", [_home, _settings, _project])
def test_a_folder_that_is_no_output(make: Callable[[Path], None], hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    before = tree(out)
    done = call("convert", hf, out, "--to", "meta", "--force")
    assert done.code == 5
    assert "is no output of llamatools" in done.err and "hint: choose another name" in done.err
    assert tree(out) == before and leftovers(out) == ["out"]


def test_one_that_takes_the_name_during_the_run(
    out: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rename.sync_folder

    def sync(folder: Path) -> None:
        real(folder)
        (out / "llamatools.json").unlink(missing_ok=True)
        (out / "mine").mkdir(exist_ok=True)

    monkeypatch.setattr(rename, "sync_folder", sync)
    assert call("convert", hf, out, "--to", "hf", "--force").code == 5
    assert (out / "mine").is_dir() and leftovers(out) == ["out"]


KINDS = ["empty", "output", "plain checkpoint", "tokenizer", "plain files"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_replaced(kind: str, out: Path, hf: Path) -> None:
    if kind != "output":
        for file in out.iterdir():
            if kind != "plain checkpoint" or file.name == "llamatools.json":
                file.unlink()
    else:
        (out / "notes").mkdir()
    if kind == "tokenizer":
        (out / ".gitattributes").write_text("x")
        (out / "tokenizer.model").write_text("x")
    if kind == "plain files":
        (out / "notes.txt").write_text("x")
    assert call("convert", hf, out, "--to", "hf", "--force").code == 0
    assert sorted(tree(out)) == ["config.json", "llamatools.json", "model.safetensors"]
    assert leftovers(out) == ["out"]
