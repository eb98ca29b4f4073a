"""When the system refuses, the error says so, and neither output nor staging folder is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calls import Called, call, leftovers, tree

from llamatools.engine import targets
from llamatools.engine.newfile import NewFile, write_document
from llamatools.errors import IOFailed
from llamatools.prepared import Prepared


def _fails(real: Callable[..., Any], code: int, after: int) -> Callable[..., Any]:
    """The call, which fails from the `after`-th time on."""
    left = [after]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return wrapped


def _expect(done: Called, code: int, out: Path) -> None:
    assert done.code == 4, done.err
    assert os.strerror(code) in done.err
    assert "hint: " in done.err
    assert "defect" not in done.err
    assert leftovers(out) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 3, 20])
@pytest.mark.parametrize("jobs", [1, 4])
def test_writing_fails(
    code: int, after: int, jobs: int, meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(os, "pwrite", _fails(os.pwrite, code, after))
    _expect(call("convert", meta, out, "--to", "hf", "--jobs", jobs), code, out)


@pytest.mark.parametrize("after", range(5))
def test_fsync_fails(after: int, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a document, a weight file, the manifest, the folder and the one above it."""
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", _fails(os.fsync, errno.EIO, after))
        done = call("convert", hf, out, "--to", "hf")
    assert (done.code, os.strerror(errno.EIO) in done.err) == (4, True), done.err
    if after < 4:
        assert leftovers(out) == []
        assert "kept" not in done.err
    else:  # the output had its name already; only that this is durable is not known
        assert leftovers(out) == ["out"]
        assert "may not outlast a failure of power" in done.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
@pytest.mark.parametrize("after", [0, 1])
def test_allocating_fails(
    code: int, after: int, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(os, "posix_fallocate", _fails(os.posix_fallocate, code, after))
    _expect(call("convert", hf, out, "--to", "meta", "--shards", 2), code, out)


def test_reading_fails(meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(os, "preadv", _fails(os.preadv, errno.EIO, 60))
        done = call("convert", meta, out, "--to", "hf")
    assert done.code == 4, done.err
    assert "reading at byte" in done.err
    assert os.strerror(errno.EIO) in done.err
    assert leftovers(out) == []


def test_no_file_stays_open(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", _fails(os.pwrite, errno.EIO, 3))
    call("convert", hf, tmp_path / "out", "--to", "meta")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        call("convert", hf, tmp_path / "out", "--to", "meta", "--shards", 2)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_space_is_checked_before_the_first_byte(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(targets, "free_bytes", lambda path: 1000)

    def never(path: Path, data: bytes) -> None:
        raise AssertionError(f"{path} was begun")

    monkeypatch.setattr("llamatools.conversion.write_document", never)
    done = call("convert", hf, out, "--to", "hf")
    assert done.code == 4
    assert "are needed, 1 kB are free" in done.err
    assert leftovers(out) == []


def test_space_needed_counts_travellers(hf: Path, tmp_path: Path) -> None:
    from llamatools import Options, open_checkpoint, prepare

    def needed() -> int:
        with open_checkpoint(hf) as opened:
            prepared: Prepared = prepare(opened, tmp_path / "out", Options("hf"))
            return prepared.disk_needed

    before = needed()
    (hf / "tokenizer.json").write_bytes(b"x" * 12345)
    assert needed() == before + 12345


def test_a_name_longer_than_file_systems_take(hf: Path, tmp_path: Path) -> None:
    """It is told before anything is written."""
    done = call("convert", hf, tmp_path / ("n" * 256), "--to", "hf")
    assert done.code == 2
    assert "a name of more than 255 bytes" in done.err


def test_a_folder_that_cannot_be_made(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(self: Path, *mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = call("convert", hf, tmp_path / "out", "--to", "hf")
    assert done.code == 4
    assert "Read-only file system" in done.err
    assert "defect" not in done.err


def test_the_longest_name_there_can_be(hf: Path, tmp_path: Path) -> None:
    assert call("convert", hf, tmp_path / ("n" * 250), "--to", "hf").code == 0


def test_force_keeps_the_old_output_when_the_new_one_fails(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call("convert", hf, out, "--to", "hf").code == 0
    before = tree(out)
    monkeypatch.setattr(os, "pwrite", _fails(os.pwrite, errno.ENOSPC, 4))
    assert call("convert", hf, out, "--to", "meta", "--force").code == 4
    assert tree(out) == before
    assert leftovers(out) == ["out"]


# --- one file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_short_writes(most: int, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take less than it is given; the rest follows."""
    assert call("convert", hf, tmp_path / "a", "--to", "meta", "-q").code == 0
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:most], at))
    assert call("convert", hf, tmp_path / "b", "--to", "meta", "-q").code == 0
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_not_a_byte_is_taken(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, rather than try for ever."""
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    done = call("convert", hf, tmp_path / "out", "--to", "hf")
    assert (done.code, leftovers(tmp_path / "out")) == (4, [])
    assert "writing at byte 0 failed: not a byte was taken" in done.err


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_space_that_cannot_be_set_aside(
    code: int, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every file system knows how; it is written all the same."""
    assert call("convert", hf, tmp_path / "a", "--to", "meta", "-q").code == 0
    monkeypatch.setattr(os, "posix_fallocate", _fails(os.posix_fallocate, code, 0))
    assert call("convert", hf, tmp_path / "b", "--to", "meta", "-q").code == 0
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_closing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As network file systems do where a quota is full; and nothing is closed twice."""
    closed: list[int] = []
    real = os.close

    def close(fd: int) -> None:
        closed.append(fd)
        real(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    file = NewFile(tmp_path / "x")
    with monkeypatch.context() as m:
        m.setattr(os, "close", close)
        with pytest.raises(IOFailed, match="closing failed: Disk quota"):
            file.finish()
        file.drop()
    assert len(closed) == 1


def test_fsync_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fsync(fd: int) -> None:
        asked.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(IOFailed, match="fsync failed"):
        write_document(tmp_path / "x", b"data")
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_only_new_files_are_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    path = tmp_path / ("mine" if kind == "file" else "link")
    if kind != "file":
        path.symlink_to("mine" if kind == "link" else "nowhere")
    with pytest.raises(IOFailed, match="creating the file failed"):
        write_document(path, b"data")
    assert tree(tmp_path)["mine"] == b"precious" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "free space"), (errno.EROFS, "another disk"), (errno.EFBIG, "ulimit"),
     (errno.EACCES, "may be written"), (errno.EIO, "failing")],
)  # fmt: skip
def test_hints_fit_what_happened(
    code: int, hint: str, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", _fails(os.pwrite, code, 0))
    assert hint in call("convert", hf, tmp_path / "out", "--to", "hf").err.split("hint: ")[1]
