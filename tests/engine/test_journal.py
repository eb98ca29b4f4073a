"""A journal is believed up to the first line that is not as it was written, and no further."""

from __future__ import annotations

import errno
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from blake3 import blake3

from llamatools.engine import journal
from llamatools.engine.journal import Journal
from llamatools.errors import IOFailed

LINES = [{"journal": 1, "plan": "p"}, {"files": [["a", 1, "x"]]}, {"files": [["b", 2, "é"]]}, {}]


@pytest.fixture
def written(tmp_path: Path) -> Journal:
    j = Journal(tmp_path / "journal")
    j.begin(LINES[:1])
    for line in LINES[1:]:
        j.append(line)
    return j


def _reads(path: Path, data: bytes) -> list[object]:
    path.write_bytes(data)
    return Journal(path).read()


def test_lines_come_back(written: Journal) -> None:
    assert written.read() == LINES
    assert all(isinstance(json.loads(line), list) for line in written.path.read_text().splitlines())


def test_begun_at_once_or_line_by_line(written: Journal, tmp_path: Path) -> None:
    """The same bytes; and a journal that was begun anew goes on."""
    other = Journal(tmp_path / "other")
    other.begin(LINES[:3])
    other.append(LINES[3])
    assert other.path.read_bytes() == written.path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal", "other"]


def test_none_there(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal").read() == []
    (tmp_path / "journal").mkdir()
    assert Journal(tmp_path / "journal").read() == []


def test_cut_anywhere(written: Journal) -> None:
    data = written.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data)):
        whole = sum(end <= size for end in ends)
        assert _reads(written.path, data[:size]) == LINES[:whole]


@pytest.mark.parametrize("flip", [1, 0x80])
def test_any_byte_flipped(flip: int, written: Journal) -> None:
    data = written.path.read_bytes()
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= flip
        line = data[:at].count(b"\n")
        assert _reads(written.path, bytes(bad)) == LINES[:line], at


def test_lines_elsewhere(written: Journal) -> None:
    """Each is whole, but not what followed the one before."""
    a, b, c, d = written.path.read_bytes().splitlines(keepends=True)
    for lines, expected in (
        ([a, c, b, d], 1), ([a, c, d], 1), ([b, c, d], 0), ([a, b, b, c, d], 2), ([a, b, d], 2),
        ([a, a, b, c, d], 1), ([a, b, c], 3), ([a, b, c, d, d], 4),
    ):  # fmt: skip
        assert _reads(written.path, b"".join(lines)) == LINES[:expected]


def test_another_journals_line(written: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "other")
    other.begin([{"journal": 1, "plan": "q"}])
    other.append(LINES[1])
    head = written.path.read_bytes().splitlines(keepends=True)[0]
    line = other.path.read_bytes().splitlines(keepends=True)[1]
    assert _reads(written.path, head + line) == LINES[:1]


def test_no_json_under_a_right_checksum(tmp_path: Path) -> None:
    """It would take intent; and is no reason to fail."""
    for text in (b"{", b"[" * 100_000, b"\xff", b""):
        line = b'["' + blake3(text).hexdigest().encode() + b'",' + text + b"]\n"
        assert _reads(tmp_path / "journal", line) == []


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    j = Journal(tmp_path / "journal")
    j.begin(LINES[:1])
    j.append(LINES[1])
    assert j.read() == LINES[:2]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close"])
def test_a_line_that_cannot_be_written(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        if call == "close":
            real(*args)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    j = Journal(tmp_path / "journal")
    j.begin(LINES[:1])
    with monkeypatch.context() as m:
        real = getattr(os, call)
        m.setattr(os, call, fails)
        with pytest.raises(IOFailed, match="Input/output error"):
            j.append(LINES[1])
    assert j.read()[:1] == LINES[:1]


def test_not_a_byte_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, rather than try for ever."""
    j = Journal(tmp_path / "journal")
    j.begin(LINES[:1])
    monkeypatch.setattr(os, "write", lambda fd, data: 0)
    with pytest.raises(IOFailed, match="not a byte was taken"):
        j.append(LINES[1])


def _peak(path: Path) -> tuple[list[object], int]:
    """What is read, and the bytes of memory that takes at most."""
    tracemalloc.start()
    try:
        found = Journal(path).read()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rest", ["hole", "newlines", "one line"])
def test_what_follows_a_journal_takes_no_memory(rest: str, written: Journal) -> None:
    with written.path.open("ab") as file:
        if rest == "hole":
            file.truncate(10 << 30)
        else:
            file.write(b"\n" * (40 << 20) if rest == "newlines" else b'["' * (40 << 20))
    began = time.monotonic()
    found, peak = _peak(written.path)
    assert found == LINES
    assert peak < 60 << 20
    assert time.monotonic() - began < 5


def test_valid_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MAX_VALUES", 5_000)
    j = Journal(tmp_path / "journal")
    j.begin([[]] * 3_000)
    assert j.read() == [[]] * (5_000 // 4)  # the line, its "[" and ",", and the "[" it holds
    j.begin([[], [0] * 10_000])
    assert j.read() == [[]]


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one is read, in as many blocks as it takes; one that is too long is not."""
    long = {"text": "x" * (1 << 20)}
    j = Journal(tmp_path / "journal")
    j.begin([{}, long, {}])
    assert j.read() == [{}, long, {}]
    monkeypatch.setattr(journal, "_MAX_LINE", 1 << 19)
    assert j.read() == [{}]


def test_a_journal_of_any_length_takes_bounded_memory(
    written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = written.path.read_bytes().index(b"\n") + 1
    monkeypatch.setattr(journal, "_MAX_BYTES", first + 5)
    assert written.read() == LINES[:1]
