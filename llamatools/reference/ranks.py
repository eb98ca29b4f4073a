"""Several processes of one run, as torchrun starts them: layers are dealt round-robin.

Layer i belongs to process i modulo their number. Process 0 has the embedding, the norm and the
head besides, and is the one that shows hidden states: those of others' layers are sent to it.

When a process fails, it says why in the store that all share, and goes. Whoever waits for it loses
the connection, and fails for the same reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from llamatools.engine.environment import environment
from llamatools.engine.meeting import connected, lost, meet
from llamatools.engine.processes import Processes


class Ranks(Processes):
    """One process, or this one among several."""

    def owner(self, layer: int) -> int:
        return layer % self.size

    def layers(self, count: int) -> list[int]:
        """Those of this process."""
        return list(range(self.rank, count, self.size))

    def send(self, xs: Sequence[torch.Tensor], to: int) -> None:
        with self._connected():
            for x in xs:
                dist.send(x.contiguous(), to)

    def receive(self, xs: Sequence[torch.Tensor], source: int) -> list[torch.Tensor]:
        """Tensors of the shapes of `xs`, which need hold nothing."""
        out = [torch.empty_like(x) for x in xs]
        with self._connected():
            for x in out:
                dist.recv(x, source)
        return out

    def part(self) -> None:
        """Nobody goes before process 0 has all it needs."""
        word = [torch.zeros(1)]
        for other in range(1, self.size):
            if self.leads:
                self.send(word, other)
            elif self.rank == other:
                self.receive(word, 0)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as e:  # torch's, for all that befalls a connection
            raise self.said() or lost(e) from e


@contextmanager
def gathered(device: torch.device, timeout: int) -> Iterator[Ranks]:
    """All processes of the run, connected while this lasts."""
    if environment()[2] == 1:
        yield Ranks()
        return
    with connected():
        ranks = _meet(device, timedelta(seconds=timeout))
    try:
        yield ranks
    except Exception as e:
        ranks.tell(e)
        if device.type != "cuda":  # nccl would wait for what is under way; leaving ends that
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meet(device: torch.device, limit: timedelta) -> Ranks:
    if sys.platform == "linux" and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on one machine
    rank, size, store = meet()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return Ranks(rank, size, store)
