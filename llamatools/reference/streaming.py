"""Units on the device, one after the other: while one is used, the next is read.

Two pieces of memory take turns. On a processor, units are used where they were read. Elsewhere,
they are read into one of two pinned buffers and copied to the device while the other is filled.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from queue import Queue
from typing import Any, Protocol

import torch

from llamatools.engine.turnstile import Stopped
from llamatools.reference.reading import Reader
from llamatools.reference.units import Unit

TURNS = 2
"""Units in the device's memory: one that is used, one that is on its way."""


def _bytes(size: int, device: torch.device, *, pinned: bool = False) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)


class _Turns:
    """Pieces of memory that are handed out and given back; with `keep`, new ones each time."""

    def __init__(self, size: int, device: torch.device, *, keep: bool) -> None:
        self._device = device
        self._keep = keep
        self._free: Queue[torch.Tensor | None] = Queue()
        if not keep:
            for _ in range(TURNS):
                self._free.put(_bytes(size, device))

    def take(self, size: int) -> torch.Tensor:
        """Waits for free memory; raises Stopped where there will be none."""
        if self._keep:
            return _bytes(size, self._device)
        memory = self._free.get()
        if memory is None:
            raise Stopped
        return memory

    def give_back(self, memory: torch.Tensor) -> None:
        if not self._keep:
            self._free.put(memory)

    def stop(self) -> None:
        self._free.put(None)


class Lane(Protocol):
    """The way of a unit's bytes from the reader to the device."""

    def buffer(self, size: int) -> torch.Tensor:
        """Memory of the host to read into."""
        ...

    def move(self, buffer: torch.Tensor, size: int) -> torch.Tensor:
        """Send what was read to the device."""
        ...

    def arrived(self, memory: torch.Tensor) -> None:
        """Called before the device uses a unit."""
        ...

    def give_back(self, memory: torch.Tensor) -> None:
        """Called when the device was told all it shall do with a unit."""
        ...

    def stop(self) -> None:
        """Nobody will ask for more: whoever waits for memory is told so."""
        ...

    def drain(self) -> None:
        """Wait for what is on its way, before its memory goes to others."""
        ...


class InPlace:
    """No way at all: units stay where they were read."""

    def __init__(self, size: int, device: torch.device, *, keep: bool) -> None:
        self._turns = _Turns(size, device, keep=keep)

    def buffer(self, size: int) -> torch.Tensor:
        return self._turns.take(size)

    def move(self, buffer: torch.Tensor, size: int) -> torch.Tensor:
        return buffer

    def arrived(self, memory: torch.Tensor) -> None:
        """It is where it was."""

    def give_back(self, memory: torch.Tensor) -> None:
        self._turns.give_back(memory)

    def stop(self) -> None:
        self._turns.stop()

    def drain(self) -> None:
        """Nothing is."""


class Staged:
    """By two buffers of the host, and, on CUDA, a stream of copies beside that of the products.

    Events say what may begin: `_copied` that a buffer may be filled again and that a unit may be
    used, `_used` that its memory may be written over.
    """

    def __init__(self, size: int, device: torch.device, *, keep: bool) -> None:
        self._cuda = device.type == "cuda"
        self._turns = _Turns(size, device, keep=keep)
        host = torch.device("cpu")
        self._buffers = [_bytes(size, host, pinned=self._cuda) for _ in range(2)]
        self._next = 0
        self._copied: dict[int, Any] = {}
        self._used: dict[int, Any] = {}
        if self._cuda:
            self._products: Any = torch.cuda.current_stream(device)
            self._copies: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> torch.Tensor:
        buffer = self._buffers[self._next]
        self._next = 1 - self._next
        if buffer.data_ptr() in self._copied:
            self._copied[buffer.data_ptr()].synchronize()
        return buffer

    def move(self, buffer: torch.Tensor, size: int) -> torch.Tensor:
        if not self._cuda:
            memory = self._turns.take(size)
            memory[:size].copy_(buffer[:size])
            return memory
        with torch.cuda.stream(self._products):
            memory = self._turns.take(size)
        used = self._used.get(memory.data_ptr())
        if used is None:
            # New to us, but maybe not to products under way: torch hands out in their order.
            self._copies.wait_stream(self._products)
        else:
            self._copies.wait_event(used)
        with torch.cuda.stream(self._copies):
            memory[:size].copy_(buffer[:size], non_blocking=True)
        event = self._copies.record_event()
        self._copied[buffer.data_ptr()] = self._copied[memory.data_ptr()] = event
        return memory

    def arrived(self, memory: torch.Tensor) -> None:
        if self._cuda:
            self._products.wait_event(self._copied[memory.data_ptr()])

    def give_back(self, memory: torch.Tensor) -> None:
        if self._cuda:
            self._used[memory.data_ptr()] = self._products.record_event()
        self._turns.give_back(memory)

    def stop(self) -> None:
        self._turns.stop()

    def drain(self) -> None:
        if self._cuda:
            self._copies.synchronize()


class Loader:
    """Gives units' memory on the device. With `resident`, what was read once is kept there."""

    def __init__(self, reader: Reader, device: torch.device, *, resident: bool) -> None:
        self._reader = reader
        self._device = device
        self._resident = resident
        self._kept: dict[str, torch.Tensor] = {}

    def to_read(self, units: Sequence[Unit]) -> int:
        """Bytes that streaming these will read."""
        return 0 if self._has(units) else sum(u.nbytes for u in units)

    def _has(self, units: Sequence[Unit]) -> bool:
        return all(unit.name in self._kept for unit in units)

    def stream(self, units: Sequence[Unit]) -> Generator[tuple[Unit, torch.Tensor], None, None]:
        """Each unit, and its bytes until the next is asked for. To be closed when broken off."""
        if self._has(units):
            for unit in units:
                yield unit, self._kept[unit.name]
            return
        way = InPlace if self._device.type == "cpu" else Staged
        lane = way(max(u.size for u in units), self._device, keep=self._resident)
        with ExitStack() as stack:
            ready: Queue[tuple[Unit, torch.Tensor] | BaseException] = Queue()
            pump = threading.Thread(target=self._pump, args=(units, lane, ready), daemon=True)
            pump.start()
            stack.callback(lane.drain)
            stack.callback(pump.join)
            stack.callback(lane.stop)
            for _ in units:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                unit, memory = item
                lane.arrived(memory)
                if self._resident:
                    self._kept[unit.name] = memory
                try:
                    yield unit, memory
                except BaseException:  # broken off: nobody waits for what is being read
                    self._reader.stop()
                    raise
                lane.give_back(memory)

    def _pump(
        self,
        units: Sequence[Unit],
        lane: Lane,
        ready: Queue[tuple[Unit, torch.Tensor] | BaseException],
    ) -> None:
        """Reads ahead, in a thread of its own."""
        try:
            for unit in units:
                buffer = lane.buffer(unit.size)
                self._reader.fill(unit, buffer.numpy())
                ready.put((unit, lane.move(buffer, unit.size)))
        except Stopped:
            pass
        except BaseException as e:
            ready.put(e)
