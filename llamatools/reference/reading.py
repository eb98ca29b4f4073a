"""Reads units into memory on a few threads, through the expressions that convert and fingerprint
use: any layout and container, the CRCs of archives checked on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from llamatools.canonical import EMBEDDING
from llamatools.checkpoint import Checkpoint
from llamatools.engine.checksums import CheckedContext, RecordChecks
from llamatools.engine.outcome import Progress
from llamatools.engine.resources import resources
from llamatools.engine.threads import one_thread_each
from llamatools.engine.turnstile import Stopped
from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.context import Once
from llamatools.expr.nodes import Expr, bare
from llamatools.plan.build import plan_fingerprint
from llamatools.plan.plan import Step
from llamatools.reference.observe import Prompt
from llamatools.reference.units import FINAL_NORM, Piece, Unit


class Reader:
    """`with Reader(...) as reader:` ... `reader.fill(unit, memory)`, from one thread at a time."""

    def __init__(self, source: Checkpoint, jobs: int | None = None) -> None:
        self._plan = plan_fingerprint(source)
        self._limits = resources(self._plan, jobs)
        self._progress: Progress = lambda done: None
        self._checks = RecordChecks()
        self._mine = threading.local()
        self._shared: dict[str, Once] = {}
        self._stopped = False
        self._lock = threading.Lock()
        self.done = 0
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(self._limits.jobs, initializer=self._begin)

    @property
    def memory(self) -> int:
        """Scratch bytes of all threads, at most."""
        return self._limits.peak

    def __enter__(self) -> Reader:
        if self._plan.multiplies:
            self._stack.enter_context(one_thread_each())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def begin(self, progress: Progress) -> None:
        """Count bytes from here on."""
        self.done = 0
        self._progress = progress

    def stop(self) -> None:
        """Make reads that are under way raise Stopped."""
        self._stopped = True

    def finish(self) -> tuple[int, int]:
        """(records checked, records read only in part); BadInput where a CRC does not fit."""
        return self._checks.finish()

    def _begin(self) -> None:
        self._mine.context = CheckedContext(self._limits.arena_bytes, self._checks)

    def fill(self, unit: Unit, memory: Bits) -> None:
        """Put a unit's pieces, as they are stored, at their places in an array of bytes."""
        # What the blocks of a tensor compute together is kept as long as its pieces are read.
        self._shared = {p.name: self._shared.get(p.name) or Once() for p in unit.pieces}
        tasks: list[Future[None]] = []
        for piece, at in unit.places:
            value = piece.value
            out = memory[at : at + piece.nbytes].view(bits_dtype(value.dtype))
            tasks += self._submit(piece, out.reshape(piece.shape[0], value.columns))
        self._wait(tasks)

    def _submit(self, piece: Piece, out: Bits) -> Iterator[Future[None]]:
        """A task for each block of the piece."""
        value, once = piece.value, self._shared[piece.name]
        height = self._plan.block_rows(Step(piece.name, value), self._limits.block_bytes)
        for start in range(piece.start, piece.stop, height):
            block = out[start - piece.start :][:height]
            yield self._pool.submit(self._read, value, start, block, once)

    def _read(self, value: Expr, start: int, out: Bits, once: Once) -> None:
        if self._stopped:
            raise Stopped
        context: CheckedContext = self._mine.context
        context.results = once
        value.fill(out, start, context)
        with self._lock:
            self.done += out.nbytes
        self._progress(out.nbytes)

    def _wait(self, tasks: Sequence[Future[None]]) -> None:
        try:
            for task in tasks:
                task.result()
        except BaseException:
            self.stop()
            raise

    def rows(self, value: Expr, indices: Sequence[int]) -> Bits:
        """(len(indices), columns): some rows of a tensor, and of the file no more than these."""
        granule, once = value.granule, Once()
        blocks = _blocks(value, indices)
        out = np.empty((len(blocks) * granule, value.columns), bits_dtype(value.dtype))
        tasks = []
        for at, rows in enumerate(blocks):
            block = out[at * granule :][: len(rows)]
            tasks.append(self._pool.submit(self._read, value, rows.start, block, once))
        self._wait(tasks)
        place = {rows.start // granule: at for at, rows in enumerate(blocks)}
        picked: Bits = out[[place[i // granule] * granule + i % granule for i in indices]]
        return picked


def _blocks(value: Expr, indices: Sequence[int]) -> list[range]:
    """The granules that some rows are in."""
    starts = sorted({i // value.granule * value.granule for i in indices})
    return [range(s, min(s + value.granule, value.rows)) for s in starts]


def bytes_of_rows(value: Expr, indices: Sequence[int]) -> int:
    """What `Reader.rows` reads."""
    return sum(len(rows) for rows in _blocks(value, indices)) * value.row_bytes


def tokens_of(prompts: Sequence[Prompt]) -> list[int]:
    """Rows of the embedding that prompts need."""
    return sorted({t for p in prompts for t in p.tokens})


def beside(source: Checkpoint, prompts: Sequence[Prompt]) -> int:
    """Bytes that are read beside layers and head."""
    embedding, norm = (bare(source.values[n]) for n in (EMBEDDING, FINAL_NORM))
    return bytes_of_rows(embedding, tokens_of(prompts)) + norm.nbytes
