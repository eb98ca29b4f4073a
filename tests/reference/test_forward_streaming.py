"""Units on their way to a device: what may begin when. CUDA's streams and events are acted."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from goldens import BY_NAME

import llamatools
from llamatools.reference import streaming, units
from llamatools.reference.reading import Reader
from llamatools.reference.streaming import Loader

HOME = BY_NAME["llama1-mha"].folder(2)
PASSES = 3


class Stream:
    """Notes what it is told, in one log for all streams."""

    log: list[tuple[Any, ...]]

    def __init__(self, name: str) -> None:
        self.name = name
        self.events = 0

    def record_event(self) -> Event:
        self.events += 1
        event = Event(self, self.events)
        self.log.append((self.name, "records", event.key))
        return event

    def wait_event(self, event: Event) -> None:
        self.log.append((self.name, "waits for", event.key))

    def wait_stream(self, other: Stream) -> None:
        self.log.append((self.name, "waits for all of", other.name))

    def synchronize(self) -> None:
        self.log.append(("host", "waits for all of", self.name))


class Event:
    def __init__(self, stream: Stream, number: int) -> None:
        self.stream = stream
        self.key = (stream.name, number)

    def synchronize(self) -> None:
        self.stream.log.append(("host", "waits for", self.key))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A CUDA device whose memory is the host's, and which does at once what it is told."""
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Stream, "log", told, raising=False)
    products, copies = Stream("products"), Stream("copies")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: products)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())

    def memory(size: int, device: torch.device, *, pinned: bool = False) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(streaming, "_bytes", memory)
    return told


def _layers(resident: bool, device: str) -> list[bytes]:
    """The bytes of every layer, several times over."""
    with llamatools.open_checkpoint(HOME) as opened, Reader(opened) as reader:
        layers = [units.layer(opened, i) for i in range(opened.spec.n_layers)]
        loader = Loader(reader, torch.device(device), resident=resident)
        return [
            memory[: unit.size].numpy().tobytes()
            for _ in range(PASSES)
            for unit, memory in loader.stream(layers)
        ]


@pytest.mark.parametrize("resident", [False, True])
def test_units_arrive_whole(resident: bool, log: list[tuple[Any, ...]]) -> None:
    there = _layers(resident, "cuda")
    assert log
    assert there == _layers(resident, "cpu") and len(there) == 9


def test_copies_and_products_wait_for_each_other(log: list[tuple[Any, ...]]) -> None:
    _layers(False, "cuda")
    one = log[: len(log) // PASSES]
    copies = [("copies", "records", ("copies", i)) for i in (1, 2, 3)]
    used = [("products", "records", ("products", i)) for i in (1, 2, 3)]
    at = {entry: i for i, entry in enumerate(one)}
    for i in range(3):
        # A unit is used once it is there.
        assert at[copies[i]] < at["products", "waits for", ("copies", i + 1)] < at[used[i]]
    # The third unit takes the place of the first, and its buffer: both must be free.
    assert at[used[0]] < at["copies", "waits for", ("products", 1)] < at[copies[2]]
    assert at[copies[0]] < at["host", "waits for", ("copies", 1)] < at[copies[2]]
    # Memory that is new may be what products under way still use.
    fresh = [i for i, e in enumerate(one) if e == ("copies", "waits for all of", "products")]
    assert len(fresh) == 2 and fresh[0] < at[copies[0]] < fresh[1] < at[copies[1]]
    assert one[-1] == ("host", "waits for all of", "copies")


def test_resident_units_are_copied_once(log: list[tuple[Any, ...]]) -> None:
    _layers(True, "cuda")
    assert [e for e in log if e[:2] == ("copies", "records")] == [
        ("copies", "records", ("copies", i)) for i in (1, 2, 3)
    ]
    assert log.count(("copies", "waits for all of", "products")) == 3


def test_next_unit_is_read_while_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the one after that is not, for lack of room."""
    begun: list[str] = []
    fill = Reader.fill

    def noted(self: Reader, unit: units.Unit, memory: Any) -> None:
        begun.append(unit.name)
        fill(self, unit, memory)

    monkeypatch.setattr(Reader, "fill", noted)
    with llamatools.open_checkpoint(HOME) as opened, Reader(opened) as reader:
        layers = [units.layer(opened, i) for i in range(3)]
        stream = Loader(reader, torch.device("cpu"), resident=False).stream(layers)
        next(stream)
        _until(lambda: len(begun) == 2)
        assert begun == ["layers.0", "layers.1"]
        next(stream)
        _until(lambda: len(begun) == 3)
        stream.close()


def _until(holds: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_pieces_lie_apart_and_in_line() -> None:
    with llamatools.open_checkpoint(HOME) as opened:
        unit = units.layer(opened, 1)
        ends = 0
        for piece, at in unit.places:
            assert at % 256 == 0 and at >= ends
            ends = at + piece.nbytes
        assert unit.size == ends
        assert unit.nbytes == sum(
            v.nbytes for n, v in opened.values.items() if n.startswith("layers.1.")
        )
