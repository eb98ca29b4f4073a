"""When the system refuses, the error says so, and neither output nor staging folder is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calls import Called, call, leftovers, tree

from llamatools.conversion import Prepared
from llamatools.engine import publish


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
    """Of a document, a weight file, the manifest, the staging folder: 4 + 1 calls for hf to hf."""
    out = tmp_path / "out"
    fails = _fails(os.fsync, errno.EIO, after)
    monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.setattr("llamatools.conversion.fsync", fails)
    if after < 4:
        _expect(call("convert", hf, out, "--to", "hf"), errno.EIO, out)
    else:  # the output had its name already; only that this is durable is not known
        assert call("convert", hf, out, "--to", "hf").code == 4


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
    monkeypatch.setattr(publish, "free_bytes", lambda path: 1000)

    def never(path: Path) -> None:
        raise AssertionError(f"{path} was begun")

    monkeypatch.setattr("llamatools.conversion.staging", never)
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
    def mkdir(self: Path) -> None:
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
