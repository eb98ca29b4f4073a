"""A forward pass from end to end: prompts through a checkpoint, shown to an observer.

Weights are streamed: layer by layer, all prompts through each before the next, so that a model is
read once whatever its size. Only the head may be read more often: logits are computed for as many
rows at once as there is room for (`packing.head_passes`), and each such pass reads all of it.

With the same settings, the same bits come out of every layout of a model, of streamed and resident
weights, and of one process and several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType

import torch

from llamatools.checkpoint import Checkpoint
from llamatools.engine.environment import environment
from llamatools.engine.outcome import Begin
from llamatools.errors import IOFailed
from llamatools.reference.determinism import deterministic, device_name, kernels
from llamatools.reference.footprint import Footprint, check_footprint, footprint
from llamatools.reference.observe import Observer, Prompt
from llamatools.reference.packing import check_prompts
from llamatools.reference.ranks import Ranks, gathered
from llamatools.reference.reading import Reader
from llamatools.reference.rope import check_scaling
from llamatools.reference.settings import Settings, find_device
from llamatools.reference.stages import Stages
from llamatools.reference.streaming import Loader

Announce = Callable[[Footprint], None]
"""Told what memory a pass will take, before anything is read."""


@dataclass(frozen=True)
class RunReport:
    """How a forward pass was run. Sizes in bytes."""

    device: str
    dtype: str
    environment: dict[str, object]
    """What was set for the sake of same bits, and the versions they hold for."""
    footprint: Footprint
    peak: int | None
    """Memory of the device that was really taken; None where torch does not count it."""
    read: int
    """Bytes of weights this process read."""
    seconds: float
    processes: int
    records_checked: int
    records_partial: int

    @property
    def within(self) -> bool | None:
        """Whether the device's memory was as much as was reckoned, at most."""
        return None if self.peak is None else self.peak <= self.footprint.total

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "footprint": self.footprint.to_json(), "within": self.within}


class Runner:
    """`with Runner(checkpoint, settings) as runner:` any number of `runner.forward(...)`.

    Resident weights are read by the first, and used by all.
    """

    def __init__(
        self,
        source: Checkpoint,
        settings: Settings | None = None,
        begin: Begin = lambda total: lambda done: None,
        announce: Announce = lambda planned: None,
    ) -> None:
        check_scaling(source.spec)
        self.settings = settings or Settings()
        self.device = find_device(self.settings, environment()[1])
        self._source = source
        self._spec = source.spec
        self._begin = begin
        self._announce = announce
        self._stack = ExitStack()

    def __enter__(self) -> Runner:
        settings, device = self.settings, self.device
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(torch.cuda.device(device))
            self._environment = stack.enter_context(deterministic(device, settings.threads))
            self._environment["kernels"] = kernels(device, settings.torch_dtype)
            self._ranks: Ranks = stack.enter_context(gathered(device, settings.timeout))
            self._reader = stack.enter_context(Reader(self._source, settings.jobs))
            self._loader = Loader(self._reader, device, resident=settings.resident)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, e, tb)

    def plan(self, prompts: Sequence[Prompt]) -> Footprint:
        """The memory that these prompts will take. BadInput, UsageError where they will not run."""
        check_prompts(prompts, self._spec)
        layers = self._ranks.layers(self._spec.n_layers)
        found = footprint(self._source, prompts, self.settings, self.device, layers)
        check_footprint(found, self.settings, self.device)
        return found

    def forward(self, prompts: Sequence[Prompt], observer: Observer) -> RunReport:
        """One pass. Of several processes, the first alone shows anything to its observer."""
        planned = self.plan(prompts)
        self._announce(planned)
        began = time.perf_counter()
        with _measured(self.device, self.settings.max_device_memory) as peak:
            stages = Stages(self._source, self.settings, self.device, prompts, observer)
            stages.run(self._ranks, self._reader, self._loader, self._begin)
        checked, partial = self._reader.finish()
        return RunReport(
            device_name(self.device), self.settings.dtype, self._environment, planned,
            next(iter(peak), None), self._reader.done, time.perf_counter() - began,
            self._ranks.size, checked, partial,
        )  # fmt: skip


def run(
    source: Checkpoint,
    prompts: Sequence[Prompt],
    observer: Observer,
    settings: Settings | None = None,
    begin: Begin = lambda total: lambda done: None,
    announce: Announce = lambda planned: None,
) -> RunReport:
    """One forward pass. Raises errors of llamatools.errors."""
    with Runner(source, settings, begin, announce) as runner:
        return runner.forward(prompts, observer)


@contextmanager
def _measured(device: torch.device, cap: int | None) -> Iterator[list[int]]:
    """Afterwards, the list holds the most of the device's memory that was taken meanwhile."""
    out: list[int] = []
    if device.type != "cuda":
        yield out
        return
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    whole = torch.cuda.get_device_properties(device).total_memory
    capped = cap is not None and cap < whole
    if cap is not None and capped:
        torch.cuda.set_per_process_memory_fraction(cap / whole, device)
    try:
        yield out
        out.append(torch.cuda.max_memory_allocated(device) - before)
    except torch.cuda.OutOfMemoryError as e:
        raise IOFailed(
            f"{device} has no memory left: {str(e).splitlines()[0]}",
            hint="is something else running there? --max-device-memory refuses in advance",
        ) from e
    finally:
        if capped:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
