"""XOR files, made here as their publishers did: chunk by chunk, with a weight file as the key."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from delta_kit import BASE, with_numbers, write
from support.calls import call, leftovers, tree
from support.tiny_files import hf_config

from llamatools.containers.base import InputFile
from llamatools.deltas import encoded
from llamatools.deltas.encoded import Key

CHUNK = 1000
KEY = "consolidated.00.pth"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of 10 MiB."""
    monkeypatch.setattr(encoded, "CHUNK", CHUNK)
    monkeypatch.setattr("llamatools.deltas.decode.CHUNK", CHUNK)


def xor(data: bytes, key: bytes, chunk: int = CHUNK) -> bytes:
    """Reads of a file that starts again, and keys repeated, one byte after the other."""
    source, keys, out = io.BytesIO(data), io.BytesIO(key), b""
    while piece := source.read(chunk):
        part = keys.read(chunk)
        if not part:
            keys.seek(0)
            part = keys.read(chunk)
        out += bytes(b ^ part[i % len(part)] for i, b in enumerate(piece))
    return out


def encode(folder: Path, name: str, data: bytes, key: bytes) -> Path:
    digest = hashlib.sha256(data)
    path = folder / f"{name}.{digest.hexdigest()}.enc"
    path.write_bytes(digest.digest() + xor(data, key))
    return path


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """A base in Meta's layout, a delta, and what the delta's plain files are."""
    base = write(with_numbers(BASE, 1), tmp_path / "base", "meta2")
    tuned = with_numbers(BASE, 2).truth
    stored = io.BytesIO()
    torch.save(tuned, stored)
    plain = {
        "pytorch_model.bin": stored.getvalue(),
        "config.json": json.dumps(hf_config(BASE)).encode(),
        "generation_config.json": b"{}",
        "empty.txt": b"",
    }
    key = (base / KEY).read_bytes()
    delta = tmp_path / "delta"
    delta.mkdir()
    for name, data in plain.items():
        encode(delta, name, data, key)
    (delta / "README.md").write_text("how to decode")
    return base, delta, plain


@pytest.mark.parametrize("words", [(), ("--kind", "xor"), ("--jobs", 1), ("--jobs", 4)], ids=str)
@pytest.mark.parametrize("key", ["", KEY], ids=["folder", "file"])
def test_decoded_byte_for_byte(
    words: tuple[object, ...],
    key: str,
    release: tuple[Path, Path, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    base, delta, plain = release
    out = tmp_path / "out"
    done = call("apply-delta", base / key, delta, out, *words)
    assert done.code == 0, done.err
    assert tree(out) == plain
    shown = " ".join(done.out.split())
    assert "unlisted model in the style of Llama 1" in shown
    assert "every file has the SHA-256 that the delta states" in shown
    assert call("inspect", out).code == 0


@pytest.mark.parametrize(
    "size", [1, 2, 7, 999, 1000, 1001, 1999, 2000, 2500, 3001], ids=lambda n: f"key{n}"
)
@pytest.mark.parametrize("piece", [1, 64, 300, 1000, 5000], ids=lambda n: f"piece{n}")
def test_keys_of_any_size(size: int, piece: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(size)
    key = rng.bytes(size)
    data = rng.bytes(6543)
    (tmp_path / "key").write_bytes(key)
    keys = Key(InputFile(tmp_path / "key"))
    out = b""
    for at in range(0, len(data), piece):
        block = np.frombuffer(data[at : at + piece], np.uint8).copy()
        keys.xor(block, at)
        out += block.tobytes()
    assert out == xor(data, key)


def test_the_chunks_are_ten_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert encoded.CHUNK == 10 * 1024 * 1024
    (tmp_path / "key").write_bytes(b"\1\2\4")
    block = np.zeros(5, np.uint8)
    Key(InputFile(tmp_path / "key")).xor(block, encoded.CHUNK - 3)
    # 10 MiB is no multiple of 3: the second chunk begins with the key's first byte.
    first = [b"\1\2\4"[(encoded.CHUNK - 3 + i) % 3] for i in range(3)]
    assert block.tolist() == [*first, 1, 2]


def refused(
    release: tuple[Path, Path, dict[str, bytes]],
    *words: object,
    code: int,
    base: Path | None = None,
) -> str:
    out = release[1].parent / "out"
    done = call("apply-delta", base or release[0], release[1], out, *words)
    assert done.code == code, done.err
    assert leftovers(out) == []
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    return " ".join(done.err.split())


def test_another_key(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    told = refused(release, code=1, base=release[0] / "consolidated.01.pth")
    assert "config.json: SHA-256" in told
    assert "pytorch_model.bin" not in told  # a wrong key is found out before the large files
    assert "is consolidated.01.pth of" in told


def test_every_damaged_file_is_named(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    for path in release[1].glob("*config.json.*"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    told = refused(release, code=1)
    assert "error: config.json: SHA-256" in told
    assert "error: generation_config.json: SHA-256" in told


def test_a_damaged_large_file(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    (path,) = release[1].glob("pytorch_model.bin.*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "pytorch_model.bin: SHA-256" in refused(release, code=1)


def _cut(folder: Path) -> None:
    path = next(folder.glob("config.json.*"))
    path.write_bytes(path.read_bytes()[:31])


def _shorter(folder: Path) -> None:
    path = next(folder.glob("config.json.*"))
    path.write_bytes(path.read_bytes()[:-1])


def _header(folder: Path) -> None:
    path = next(folder.glob("config.json.*"))
    path.write_bytes(b"\0" * 32 + path.read_bytes()[32:])


def _no_digest(folder: Path) -> None:
    next(folder.glob("config.json.*")).rename(folder / "config.json.enc")


def _renamed(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = next(folder.glob("config.json.*"))
        path.rename(folder / path.name.replace("config.json", name, 1))

    return change


def _twice(folder: Path) -> None:
    encode(folder, "config.json", b"another", b"key")


def _link_out(folder: Path) -> None:
    path = next(folder.glob("config.json.*"))
    path.rename(folder.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def _fifo(folder: Path) -> None:
    path = next(folder.glob("config.json.*"))
    path.unlink()
    os.mkfifo(path)


HOSTILE: list[tuple[str, Callable[[Path], None], int, str]] = [
    ("cut", _cut, 3, "too few for its SHA-256"),
    ("shorter", _shorter, 1, "config.json: SHA-256"),
    ("header", _header, 3, "its first bytes 0000000000000000..."),
    ("no digest", _no_digest, 3, "expected NAME.<SHA-256>.enc"),
    ("control characters", _renamed("a\x1b[31m"), 3, "none that is written"),
    ("newline", _renamed("a\nb"), 3, "none that is written"),
    ("not unicode", _renamed(os.fsdecode(b"\xff")), 3, "none that is written"),
    ("hidden", _renamed(".bashrc"), 3, "none that is written"),
    ("parent", _renamed(".."), 3, "none that is written"),
    ("nameless", _renamed(""), 3, "none that is written"),
    ("twice", _twice, 3, "a second file that makes config.json"),
    ("a link that leads away", _link_out, 3, "links that lead out of the folder"),
    ("a pipe", _fifo, 3, "not regular files"),
]


@pytest.mark.parametrize(
    ("change", "code", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
def test_hostile_files(
    change: Callable[[Path], None],
    code: int,
    message: str,
    release: tuple[Path, Path, dict[str, bytes]],
) -> None:
    change(release[1])
    assert message in refused(release, code=code)


def test_all_problems_at_once(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    _cut(release[1])
    (release[1] / "x.enc").write_bytes(b"")
    told = refused(release, code=3)
    assert "too few" in told
    assert "x.enc: expected" in told


def test_links_within_the_folder_are_followed(
    release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    base, delta, plain = release
    path = next(delta.glob("config.json.*"))
    path.rename(delta / "blob")
    path.symlink_to("blob")
    assert call("apply-delta", base, delta, tmp_path / "out").code == 0
    assert tree(tmp_path / "out") == plain


def test_files_that_make_no_checkpoint(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    next(release[1].glob("pytorch_model.bin.*")).unlink()
    told = refused(release, code=3)
    assert "every file is as the delta says, but they make no checkpoint" in told
    assert "no weights" in told
    assert ".llamatools/" not in told


@pytest.mark.parametrize(
    "words",
    [
        ("--to", "meta"),
        ("--dtype", "fp32"),
        ("--container", "bin"),
        ("--shards", "2"),
        ("--max-shard-size", "1GB"),
        ("--tokenizer", "none"),
        ("--instruct",),
        ("--strict",),
        ("--no-verify",),
    ],
    ids=lambda w: w[0],
)
def test_options_that_would_change_the_files(
    words: tuple[str, ...], release: tuple[Path, Path, dict[str, bytes]]
) -> None:
    told = refused(release, *words, code=2)
    assert words[0] in told
    assert "hint: convert the output" in told


def test_another_kind(release: tuple[Path, Path, dict[str, bytes]]) -> None:
    assert "DELTA holds XOR files" in refused(release, "--kind", "add", code=2)


def test_one_file_of_the_delta(
    release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    base, delta, _ = release
    done = call("apply-delta", base, next(delta.glob("config*")), tmp_path / "out")
    assert done.code == 2
    assert "give the folder instead" in done.err


def test_an_empty_key(release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    empty = tmp_path / "keys/empty.pth"
    empty.parent.mkdir()
    empty.write_bytes(b"")
    assert "no key" in refused(release, code=3, base=empty)


def test_little_memory(release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    base, delta, plain = release
    done = call("apply-delta", base, delta, tmp_path / "out", "--max-memory", "25kB")
    assert done.code == 0, done.err
    assert tree(tmp_path / "out") == plain
    (tmp_path / "out").rename(tmp_path / "done")
    assert "is too little" in refused(release, "--max-memory", "4kB", code=2)


def test_output_taken_or_in_the_input(
    release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    base, delta, plain = release
    out = tmp_path / "there"
    out.mkdir()
    (out / "old").write_text("x")
    assert call("apply-delta", base, delta, out).code == 5
    assert call("apply-delta", base, delta, delta / "out").code == 2
    assert call("apply-delta", base, delta, base).code == 2
    assert call("apply-delta", base, delta, out, "--force").code == 0
    assert tree(out) == plain


def test_a_dry_run_writes_nothing(
    release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    done = call("apply-delta", *release[:2], tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert "nothing was written" in done.out
    assert leftovers(tmp_path / "out") == []


def test_library(release: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    import llamatools

    report = llamatools.decode_delta(*release[:2], tmp_path / "out")
    assert report["model"]["container"] == "torch"  # type: ignore[index]
    assert tree(tmp_path / "out") == release[2]
