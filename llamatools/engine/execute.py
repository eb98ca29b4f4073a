"""Runs a plan: every step streamed in blocks of rows, on a few threads, digested on the way.

Blocks are numbered in the order in which their bytes stand in the files. Workers take them in
that order, read, compute and write them in parallel (positional reads and writes need no order),
and pass two turnstiles in block order: one digests the canonical tensor, one the output files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from llamatools.engine.checksums import CheckedContext, RecordChecks
from llamatools.engine.digest import tensor_hasher
from llamatools.engine.outcome import Begin, Outcome, Progress
from llamatools.engine.resources import Resources
from llamatools.engine.sink import Sink
from llamatools.engine.threads import one_thread_each
from llamatools.engine.turnstile import Stopped, Turnstile
from llamatools.errors import LlamatoolsError
from llamatools.expr.bits import Bits, as_bytes, pairs_from_halves
from llamatools.expr.context import Once
from llamatools.expr.nodes import Expr, Witnessed
from llamatools.plan.plan import Plan, Step, Target

Settle = Callable[[Sequence[Sink]], None]
"""Called with the files, complete; has them finished, or dropped, now or later."""


def settle(sinks: Sequence[Sink]) -> None:
    """Finish all files; where one fails, the others are dropped."""
    try:
        for sink in sinks:
            sink.finish()
    finally:
        for sink in sinks:
            sink.drop()


@dataclass(frozen=True)
class _Block:
    number: int
    step: Step
    start: int
    stop: int
    results: Once
    """What the blocks of a step compute together; it goes with the last of them."""


class _Worker(CheckedContext):
    """Context for expressions: one thread's scratch memory, and the run's shared books."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run.limits.arena_bytes, run.checks)
        self._run = run
        self._number = 0
        self._passed = False

    def note(self, key: str, counts: Mapping[str, int]) -> None:
        self._run.note(key, counts)

    def witness(self, name: str, value: Expr, start: int, block: Bits) -> None:
        self._passed = True
        with self._run.before_turn.turn(self._number):
            self._run.digest_before(name, value, start, block)

    @contextmanager
    def filling(self, block: _Block) -> Iterator[None]:
        """While a block is computed; whoever saw no source tensor in it lets the next one pass."""
        self.results, self._number, self._passed = block.results, block.number, False
        yield
        if not self._passed:
            with self._run.before_turn.turn(block.number):
                pass


def _size(block: Bits) -> tuple[int, int]:
    rows, columns = block.shape
    return rows, columns


class _Run:
    def __init__(
        self, plan: Plan, limits: Resources, progress: Progress, checks: RecordChecks
    ) -> None:
        self.limits = limits
        self.checks = checks
        self.before_turn = Turnstile()
        self.outcome = Outcome()
        self.sinks: list[Sink] = []
        self._plan = plan
        self._progress = progress
        self._blocks = self._enumerate()
        self._lock = threading.Lock()
        self._tensor_turn = Turnstile()
        self._file_turn = Turnstile()
        self._hasher: blake3 | None = None
        self._before: blake3 | None = None
        self._failures: list[BaseException] = []

    def open_sinks(self, folder: Path | None) -> None:
        for f in self._plan.files:
            assert folder is not None, "a plan that writes files needs a folder"
            self.sinks.append(Sink(folder / f.name, f.layout))

    def _enumerate(self) -> Iterator[_Block]:
        number = 0
        for step in self._plan.work:
            height = self._plan.block_rows(step, self.limits.block_bytes)
            results = Once()
            for start in range(0, step.value.rows, height):
                stop = min(start + height, step.value.rows)
                yield _Block(number, step, start, stop, results)
                number += 1

    def note(self, key: str, counts: Mapping[str, int]) -> None:
        with self._lock:
            known = self.outcome.counts.setdefault(key, {})
            for what, n in counts.items():
                known[what] = known.get(what, 0) + n

    def work(self) -> None:
        """One worker thread's life."""
        try:
            worker = _Worker(self)
            while True:
                with self._lock:
                    block = next(self._blocks, None)
                if block is None:
                    return
                self._process(block, worker)
        except Stopped:
            pass
        except BaseException as e:
            self.fail(e)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._failures.append(error)
        self.stop()

    def stop(self) -> None:
        self.before_turn.stop()
        self._tensor_turn.stop()
        self._file_turn.stop()

    def raise_failure(self) -> None:
        if self._failures:
            # A problem of the input or the disk explains the rest, whichever came first.
            known = [e for e in self._failures if isinstance(e, LlamatoolsError)]
            raise (known or self._failures)[0]

    def _process(self, block: _Block, worker: _Worker) -> None:
        value = block.step.value
        rows = block.stop - block.start
        with worker.scratch(rows, value.columns, value.dtype) as canonical, ExitStack() as stack:
            with worker.filling(block):
                value.fill(canonical, block.start, worker)
            with self._tensor_turn.turn(block.number):
                self._digest_tensor(block, canonical)
            pieces = self._pieces(block, canonical, worker, stack)
            for target, offset, piece in pieces:
                self.sinks[target.file].write(offset, piece)
            with self._file_turn.turn(block.number):
                for target, _, piece in pieces:
                    self.sinks[target.file].digest(target.slot, piece)
        self._progress(rows * value.row_bytes)

    def digest_before(self, name: str, value: Expr, start: int, block: Bits) -> None:
        if start == 0:
            self._before = tensor_hasher(value.dtype, value.shape)
        assert self._before is not None
        self._before.update(as_bytes(block))
        if start + len(block) == value.rows:
            self.outcome.before[name] = self._before.hexdigest()

    def _digest_tensor(self, block: _Block, canonical: Bits) -> None:
        value = block.step.value
        if isinstance(value, Witnessed):  # of a tensor that the output does not have
            return
        if block.start == 0:
            self._hasher = tensor_hasher(value.dtype, value.shape)
        assert self._hasher is not None
        self._hasher.update(as_bytes(canonical))
        if block.stop == value.rows:
            self.outcome.tensors[block.step.name] = self._hasher.hexdigest()

    def _pieces(
        self, block: _Block, canonical: Bits, worker: _Worker, stack: ExitStack
    ) -> list[tuple[Target, int, memoryview]]:
        """(target, file offset, contiguous bytes) for every part of the block that is written."""
        step, value = block.step, block.step.value
        native = canonical
        if step.pair_heads and step.targets:
            native = stack.enter_context(worker.scratch(*_size(canonical), value.dtype))
            pairs_from_halves(canonical, native, value.rows // step.pair_heads)
        out: list[tuple[Target, int, memoryview]] = []
        for t in step.targets:
            slot = self._plan.files[t.file].layout.slots[t.slot]
            if t.axis == 0:
                lo, hi = max(block.start, t.start), min(block.stop, t.stop)
                if lo >= hi:
                    continue
                piece = native[lo - block.start : hi - block.start]
                first = lo - t.start
            else:
                piece, first = native[:, t.start : t.stop], block.start
                if not piece.flags.c_contiguous:
                    compact = stack.enter_context(worker.scratch(*_size(piece), value.dtype))
                    compact[...] = piece
                    piece = compact
            row_bytes = piece.shape[1] * value.dtype.size
            out.append((t, slot.start + first * row_bytes, as_bytes(piece)))
        return out

    def check_records(self) -> None:
        out = self.outcome
        out.records_checked, out.records_partial = self.checks.finish()

    def finish(self, settle: Settle) -> Outcome:
        out = self.outcome
        for f, sink in zip(self._plan.files, self.sinks, strict=True):
            out.files[f.name] = sink.complete()
        sinks, self.sinks = self.sinks, []
        settle(sinks)
        return out

    def drop(self) -> None:
        for sink in self.sinks:
            sink.drop()


def execute(
    plan: Plan,
    limits: Resources,
    folder: Path | None = None,
    progress: Progress = lambda n: None,
    checks: RecordChecks | None = None,
    settle: Settle = settle,
) -> Outcome:
    """Run a plan; its weight files are created in `folder`, complete and synced on return, unless
    `settle` puts that off.

    The first failure, or a signal, stops all workers before it is raised. Who gives `checks` is the
    one to finish them: of a part of a plan, when the other parts have been seen.
    """
    run = _Run(plan, limits, progress, checks or RecordChecks())
    threads = [threading.Thread(target=run.work, daemon=True) for _ in range(limits.jobs)]
    try:
        run.open_sinks(folder)
        with one_thread_each() if plan.multiplies else nullcontext():
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        run.raise_failure()
        if checks is None:
            run.check_records()
        return run.finish(settle)
    finally:
        run.stop()
        for t in threads:
            if t.ident is not None:
                t.join()
        run.drop()


def alone(plan: Plan, limits: Resources, folder: Path, begin: Begin) -> Outcome:
    """All of it, in this process."""
    return execute(plan, limits, folder, begin(sum(s.value.nbytes for s in plan.work)))
