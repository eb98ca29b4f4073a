"""What every GPU of a deployment needs, for any context and batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llamatools.memory import estimates
from llamatools.memory.architecture import Architecture
from llamatools.memory.engines import PLAIN, Engine
from llamatools.memory.estimates import Estimates
from llamatools.memory.formats import Format
from llamatools.memory.kv import Cache
from llamatools.memory.parallel import Shares, kv_heads, stage_kinds, stage_layers


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU. `weights` and `kv` are exact where their figures are."""

    weights: int
    kv: int
    extra: Estimates

    @property
    def exact(self) -> int:
        return self.weights + self.kv

    @property
    def total(self) -> int:
        return self.exact + self.extra.total


@dataclass(frozen=True)
class Stage:
    """One pipeline stage, on the fullest of its tensor-parallel ranks."""

    layers: range
    weights: int
    cache: Cache


@dataclass(frozen=True)
class Deployment:
    """A model over tp · pp GPUs. `shares` are those of the fullest tensor-parallel rank."""

    architecture: Architecture
    shares: Shares
    kv_format: Format
    tp: int = 1
    pp: int = 1
    engine: Engine = PLAIN
    images: int = 0
    native: int = 0
    """The context the model was made for."""

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        a, spec = self.architecture, self.architecture.spec
        heads = kv_heads(a, self.tp)
        return tuple(
            Stage(
                layers,
                self.shares.stage(layers, self.pp, index),
                Cache(
                    stage_kinds(a.layers, layers), heads, spec.head_dim, a.image_tokens,
                    self.kv_format, self.engine,
                ),
            )
            for index, layers in enumerate(stage_layers(spec.n_layers, self.pp))
        )  # fmt: skip

    def kv_total(self, context: int, batch: int) -> int:
        """Bytes of the cache on all GPUs together, copies of heads included."""
        return self.tp * sum(s.cache.nbytes(context, batch, self.images) for s in self.stages)

    def need(self, context: int, batch: int) -> Need:
        """Of the fullest GPU."""
        return max(
            (self._of(s, context, batch) for s in self.stages), key=lambda n: (n.total, n.exact)
        )

    def _of(self, stage: Stage, context: int, batch: int) -> Need:
        a, spec = self.architecture, self.architecture.spec
        kv = stage.cache.nbytes(context, batch, self.images)
        rope = estimates.rope_cache(max(context, self.native), spec.head_dim)
        acts = estimates.activations(
            batch * context,
            batch,
            ffn=max(spec.ffn_dim, a.experts.dense_ffn if a.experts else 0),
            dim=spec.dim,
            vocab=spec.vocab_size,
            tp=self.tp,
        )
        run = estimates.runtime(stage.weights + kv + rope + acts, self.tp)
        return Need(stage.weights, kv, Estimates(rope, acts, run))
