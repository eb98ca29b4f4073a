"""Tensor and pipeline parallelism: which bytes each rank holds.

Ranks share tensors as model-parallel files do (layouts/split.py), so that a rank's bytes are those
of a file of the re-sharded checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import lcm

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.layouts.split import part
from llamatools.memory.architecture import Architecture, Layer
from llamatools.memory.engines import PLAIN, Engine
from llamatools.memory.parameters import Weight, last_stage_names


def problems(a: Architecture, tp: int, pp: int) -> list[str]:
    """Why the model cannot be divided so; empty where it can."""
    found = [
        f"--tp {tp} does not divide {what} ({size})"
        for what, size in _divided(a).items()
        if size % tp
    ]
    kv = a.spec.n_kv_heads
    if kv % tp and tp % kv:
        found.append(f"--tp {tp} neither divides nor is a multiple of the key-value heads ({kv})")
    if pp > a.spec.n_layers:
        found.append(f"--pp {pp}: more stages than the model has layers ({a.spec.n_layers})")
    return found


def _divided(a: Architecture) -> dict[str, int]:
    out = {"the heads": a.spec.n_heads, "the feed-forward width": a.spec.ffn_dim}
    return out | ({"the dense feed-forward width": a.experts.dense_ffn} if a.experts else {})


def allowed_tp(a: Architecture, most: int) -> list[int]:
    """Every number of ranks, up to `most`, that tensor parallelism can use."""
    return [n for n in range(1, most + 1) if not problems(a, n, 1)]


def kv_heads(a: Architecture, tp: int) -> int:
    """Key-value heads on each rank. Ranks beyond their number hold a copy of one."""
    return max(1, a.spec.n_kv_heads // tp)


def vocabulary(rows: int, tp: int, engine: Engine) -> int:
    """Rows of embedding or head once an engine has padded them so that ranks share them evenly."""
    if engine.vocabulary == 1:
        return rows
    multiple = lcm(engine.vocabulary, tp)
    return -(-rows // multiple) * multiple


def stage_layers(n_layers: int, pp: int) -> tuple[range, ...]:
    """Layers of each pipeline stage.

    What is left over goes one each to the stages before the last, which has the head: so vLLM
    (distributed/utils.py, get_pp_indices) does it.
    """
    sizes = [n_layers // pp] * pp
    for i in range(n_layers % pp):
        sizes[pp - 2 - i] += 1
    ends = list(accumulate(sizes))
    return tuple(range(end - size, end) for size, end in zip(sizes, ends, strict=True))


def rank_shape(w: Weight, a: Architecture, tp: int, rank: int, engine: Engine) -> tuple[int, ...]:
    """What rank `rank` of `tp` holds of one tensor."""
    shape, axis = w.shape, w.axis
    if w.name in (EMBEDDING, HEAD):
        shape = (vocabulary(shape[0], tp, engine), *shape[1:])
        axis = "rows" if engine is not PLAIN else axis
    where, start, stop = part(axis, shape, rank, tp, a.spec.n_kv_heads)
    return (*shape[:where], stop - start, *shape[where + 1 :])


@dataclass(frozen=True)
class Shares:
    """Bytes of a model's weights on one tensor-parallel rank, by where a pipeline puts them."""

    layers: tuple[int, ...]
    first: int
    """Embedding, and the image encoder."""
    last: int
    """Last norm, and head: a copy of the embedding where the two are tied and apart."""
    tied: int
    """What of `last` the first stage holds already."""

    @cached_property
    def _sums(self) -> list[int]:
        return [0, *accumulate(self.layers)]

    @property
    def total(self) -> int:
        """All of it on one GPU."""
        return self.stage(range(len(self.layers)), 1, 0)

    def stage(self, layers: range, pp: int, index: int) -> int:
        total = self._sums[layers.stop] - self._sums[layers.start]
        total += self.first if index == 0 else 0
        total += self.last if index == pp - 1 else 0
        return total - (self.tied if pp == 1 else 0)


def shares(every: Iterable[Weight], a: Architecture, tp: int, rank: int, engine: Engine) -> Shares:
    """The shares of one rank. The last rank's are the largest: uneven parts end there."""
    layers = [0] * a.spec.n_layers
    first = last = tied = 0
    at_the_end = last_stage_names(a)
    for w in every:
        size = w.bytes_of(rank_shape(w, a, tp, rank, engine))
        if w.layer is not None:
            layers[w.layer] += size
        elif w.name not in at_the_end:
            first += size
        else:
            last += size
            if w.name == EMBEDDING:
                first += size
                tied += size
    return Shares(tuple(layers), first, last, tied)


def stage_kinds(layers: Sequence[Layer], stage: range) -> Counter[Layer]:
    return Counter(layers[stage.start : stage.stop])
