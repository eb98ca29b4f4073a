"""Processes that do not come are missed by name, and soon; those that come find each other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.calls import call, leftovers
from torch.distributed import TCPStore

import llamatools
from llamatools.engine import meeting
from llamatools.engine.meeting import meet
from llamatools.errors import IOFailed, UsageError

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL, LOGITS = GOLDEN / "llama3-gqa" / "mp2", GOLDEN / "llama3-gqa" / "golden.safetensors"
MEETING = 7


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """This process is the first of three, and nobody waits for long."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    words = {
        "RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "LLAMATOOLS_MEETING_SECONDS": "1",
    }  # fmt: skip
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "_meetings", count(MEETING))
    meeting._shared.cache_clear()
    yield port
    meeting._shared.cache_clear()


def _comes(port: int, rank: int) -> TCPStore:
    """What another process does."""
    store = TCPStore("127.0.0.1", port, wait_for_workers=False)
    store.set(f"llamatools 0 {MEETING}/here {rank}", "")
    return store


def _missed(words: str) -> None:
    began = time.monotonic()
    with pytest.raises(IOFailed, match=words) as caught:
        meet()
    assert time.monotonic() - began < 20
    assert "LLAMATOOLS_MEETING_SECONDS" in (caught.value.hint or "")


def test_who_does_not_come_is_named(port: int) -> None:
    _missed("^processes 1, 2 of this run did not come within 1 seconds")


def test_and_who_comes_is_not(port: int) -> None:
    held = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, multi_tenant=True)
    other = _comes(port, 1)
    _missed("^process 2 of this run")
    del other, held


def test_the_first_is_missed_without_a_trace_of_torch(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    _missed("^process 0 of this run")
    assert capfd.readouterr() == ("", "")


def test_all_come(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMATOOLS_MEETING_SECONDS", "60")
    held = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, multi_tenant=True)
    others = [_comes(port, 1)]
    late = threading.Timer(1.0, lambda: others.append(_comes(port, 2)))
    late.start()
    assert meet()[:2] == (0, 3)
    late.join()
    del held


def test_another_attempt_of_torchrun_is_another_run(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose store, and what processes before this one left there, stays."""
    held = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, multi_tenant=True)
    before = [_comes(port, 1), _comes(port, 2)]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    _missed("^processes 1, 2")
    del before, held


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_patience_that_is_none(text: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMATOOLS_MEETING_SECONDS", text)
    with pytest.raises(UsageError, match="LLAMATOOLS_MEETING_SECONDS"):
        meet()


@pytest.mark.parametrize("name", ["MASTER_PORT"])
def test_a_place_that_is_none(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "here")
    with pytest.raises(UsageError, match="MASTER_PORT"):
        meet()


@pytest.mark.parametrize("rank", [0, 1])
def test_commands_say_so(
    rank: int, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    out = tmp_path / "out"
    for words in (
        ("convert", MODEL, out, "--to", "hf"),
        ("verify", MODEL, "--golden", LOGITS, "--device", "cpu"),
    ):
        done = call(*words)
        assert done.code == 4, done.err
        assert "did not come within 1 seconds" in done.err
        assert leftovers(out) == []


def test_the_library_works_alone(port: int, tmp_path: Path) -> None:
    """And so not in one of several processes, all of which would do everything."""
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="one of 3 processes"):
        llamatools.convert(MODEL, out, llamatools.Options(to="hf"))
    with pytest.raises(UsageError, match="one of 3 processes"):
        llamatools.verify(MODEL, LOGITS)
    with pytest.raises(UsageError, match="one of 3 processes"):
        llamatools.create_golden(MODEL, out)
    assert list(tmp_path.iterdir()) == []


def test_and_works_where_there_is_one(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert llamatools.convert(MODEL, tmp_path / "out", llamatools.Options(to="hf"))["lossless"]
