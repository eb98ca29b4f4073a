"""Does it fit, what is the most that fits, and how few GPUs hold it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from llamatools.memory.gpus import Gpu
from llamatools.memory.need import Deployment, Need
from llamatools.memory.parallel import Shares, allowed_tp

Verdict = Literal["fits", "tight", "no"]

MOST_CONTEXT = 1 << 30
MOST_BATCH = 1 << 20
MOST_TP = 16
"""GPUs that share tensors in the search for few of them: what fast links join, at most. More
only where more are asked about."""
MOST_GPUS = 1024


def verdict(need: Need, gpu: Gpu) -> Verdict:
    """fits: within the usable part. tight: within what is visible, by estimates that may be off."""
    if need.total <= gpu.usable:
        return "fits"
    return "tight" if need.total <= gpu.visible else "no"


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest n up to `most` for which it holds, 0 where there is none. It holds downwards."""
    low, high = 0, most + 1
    step = 1
    while step <= most and holds(step):
        low, step = step, step * 2
    high = min(step, high)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def largest_context(d: Deployment, gpu: Gpu, batch: int) -> int:
    """Tokens each of `batch` sequences may have; 0 where not even one fits."""
    return _largest(lambda n: verdict(d.need(n, batch), gpu) == "fits", MOST_CONTEXT)


def largest_batch(d: Deployment, gpu: Gpu, context: int) -> int:
    """Sequences of `context` tokens that fit together; 0 where not even one does."""
    return _largest(lambda n: verdict(d.need(context, n), gpu) == "fits", MOST_BATCH)


@dataclass(frozen=True)
class Fewest:
    """The smallest number of GPUs, and how the model is divided over them."""

    tp: int
    pp: int

    @property
    def gpus(self) -> int:
        return self.tp * self.pp


@dataclass
class Search:
    """Looks for the fewest GPUs; remembers what each division needs for the next kind of GPU."""

    base: Deployment
    shares: Callable[[int], Shares]
    """tp -> the fullest rank's shares."""
    _known: dict[int, Shares] = field(default_factory=dict)
    _needs: dict[tuple[int, int, int, int], Need] = field(default_factory=dict)

    def fewest(self, gpu: Gpu, context: int, batch: int) -> Fewest | None:
        """Fewer GPUs first; of equal numbers, more tensor and less pipeline parallelism."""
        layers = self.base.architecture.spec.n_layers
        tps = allowed_tp(self.base.architecture, max(MOST_TP, self.base.tp))
        sizes = sorted(
            (tp * pp, -tp, pp) for tp in tps for pp in range(1, layers + 1)
             if tp * pp <= MOST_GPUS
        )  # fmt: skip
        weights = self._of(1).total
        for gpus, minus_tp, pp in sizes:
            if gpus * gpu.usable < weights:
                continue
            if verdict(self._need(-minus_tp, pp, context, batch), gpu) == "fits":
                return Fewest(-minus_tp, pp)
        return None

    def _need(self, tp: int, pp: int, context: int, batch: int) -> Need:
        asked = (tp, pp, context, batch)
        if asked not in self._needs:
            d = replace(self.base, tp=tp, pp=pp, shares=self._of(tp))
            self._needs[asked] = d.need(context, batch)
        return self._needs[asked]

    def _of(self, tp: int) -> Shares:
        if tp not in self._known:
            self._known[tp] = self.shares(tp)
        return self._known[tp]
