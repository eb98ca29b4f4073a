"""Several processes of one run, as torchrun starts them: layers are dealt round-robin.

Layer i belongs to process i modulo their number. Process 0 has the embedding, the norm and the
head besides, and is the one that shows hidden states: those of others' layers are sent to it.

When a process fails, it says why in the store that all share, and goes. Whoever waits for it loses
the connection, and fails for the same reason.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from llamatools import errors
from llamatools.errors import IOFailed, LlamatoolsError
from llamatools.reference.environment import environment
from llamatools.text import safe

_FAILURE = "failure"
_meetings = count()
"""A process may gather several times; each time words are left in another place."""


class Ranks:
    """One process, or this one among several."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store

    @property
    def leads(self) -> bool:
        return self.rank == 0

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
            raise self._reason(e) from e

    def _reason(self, error: Exception) -> LlamatoolsError:
        """Why another process left, if it said; what torch says, if not."""
        try:
            said = json.loads(self._store.get(_FAILURE)) if self._store.check([_FAILURE]) else None
        except Exception:  # the store went with the process that held it
            said = None
        if said is None:
            return _lost(error)
        kind: type[LlamatoolsError] = getattr(errors, said["class"], IOFailed)
        return kind(said["problems"], hint=said["hint"])

    def tell(self, error: Exception) -> None:
        """Leave word of why this process fails; the first that does is the cause."""
        known = isinstance(error, LlamatoolsError)
        problems = error.problems if isinstance(error, LlamatoolsError) else [repr(error)]
        words = {
            "class": type(error).__name__ if known else IOFailed.__name__,
            "problems": [f"process {self.rank}: {safe(p)}" for p in problems],
            "hint": getattr(error, "hint", None),
        }
        with suppress(Exception):  # the store may be gone
            if self.size > 1 and not self._store.check([_FAILURE]):
                self._store.set(_FAILURE, json.dumps(words))


def _lost(error: Exception) -> IOFailed:
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return IOFailed(
        f"the processes of this run lost each other: {safe(first[0])}",
        hint="what the other processes printed tells more",
    )


@contextmanager
def gathered(device: torch.device, timeout: int) -> Iterator[Ranks]:
    """All processes of the run, connected while this lasts."""
    if environment()[2] == 1:
        yield Ranks()
        return
    try:
        ranks = _meet(device, timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as e:
        raise _lost(e) from e
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
    store, rank, size = next(rendezvous("env://", timeout=limit))
    store.set_timeout(limit)
    store = dist.PrefixStore(f"llamatools {next(_meetings)}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return Ranks(rank, size, store)
