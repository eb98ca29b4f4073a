from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import torch
from support.forge import Refused, entry, safetensors_bytes

from llamatools.containers.base import InputFile
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput, LlamatoolsError, Unsupported


def legacy_torch() -> bytes:
    out = io.BytesIO()
    torch.save({"w": torch.ones(2)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize(
    ("data", "words", "error"),
    [
        (b"GGUF\3\0\0\0" + bytes(16), "a GGUF file", Unsupported),
        (b"tjgg" + bytes(16), "a GGML file", Unsupported),
        (legacy_torch(), "format before 1.6", Unsupported),
        (tar(), "a tar archive", Unsupported),
        (b"\x89HDF\r\n\x1a\n", "HDF5", Unsupported),
        (b"\x1f\x8b\x08", "gzip", Unsupported),
        (b"\x28\xb5\x2f\xfd", "zstd", Unsupported),
        (b"<!DOCTYPE html><html>", "a web page", BadInput),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "error message in XML", BadInput),
        (LFS, "a git-lfs pointer", BadInput),
        (b"", "an empty file", BadInput),
        (bytes(4096), "zeros where its first bytes", BadInput),
        (b"PK\5\6" + bytes(18), "an empty zip archive", BadInput),
        (b"\x08\x07\x12\x04onnx", "not a checkpoint file", BadInput),
        (b"{", "not a checkpoint file", BadInput),
        (b"\0", "not a checkpoint file", BadInput),
    ],
)
def test_refuses_by_name(data: bytes, words: str, error: type[BadInput], refused: Refused) -> None:
    assert refused(data, words, error=error).hint


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"\x80", b"\x80\x02", b"<"])
def test_a_header_length_that_looks_like_another_magic(magic: bytes, tmp_path: Path) -> None:
    length = int.from_bytes(magic.ljust(4, b"\0"), "little")
    length += 0x100 if length < 0x100 else 0
    body = safetensors_bytes({"w": entry(0, 4, [1])})[8:]
    path = tmp_path / "x"
    path.write_bytes(length.to_bytes(8, "little") + body.ljust(length) + bytes(4))
    assert list(open_container(path).tensors) == ["w"]


def test_what_is_not_a_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(BadInput, match="not a regular file"):
            open_container(path)
    for name in ("absent", "a\0b", "\udc80/x"):
        with pytest.raises(BadInput):
            open_container(tmp_path / name)
    with pytest.raises(LlamatoolsError):
        open_container(tmp_path / ("x" * 5000))


def test_reading_past_the_end_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    file = InputFile(tmp_path / "x")
    assert file.read(1, 2) == b"23"
    for offset, size in ((2, 2), (0, 2**62), (2**70, 1)):
        with pytest.raises(BadInput, match="ends at byte 3"):
            file.read(offset, size)
