"""The stages of a forward pass, and the residual stream of every prompt between them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch
import torch.nn.functional as F

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.engine.outcome import Begin
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Expr, bare
from llamatools.reference import units
from llamatools.reference.forward import HALVES, Half, Prompts, Weights, rms_norm
from llamatools.reference.observe import Observer, Point, Prompt
from llamatools.reference.packing import Rows, head_passes, together
from llamatools.reference.ranks import Ranks
from llamatools.reference.reading import Reader, beside, tokens_of
from llamatools.reference.rope import rope
from llamatools.reference.settings import Settings
from llamatools.reference.streaming import Loader
from llamatools.reference.units import Unit
from llamatools.reference.weights import Conversion, largest_converted


class Stages:
    def __init__(
        self,
        source: Checkpoint,
        settings: Settings,
        device: torch.device,
        prompts: Sequence[Prompt],
        observer: Observer,
    ) -> None:
        self._source = source
        self._spec = source.spec
        self._resident = settings.resident
        self._dtype = settings.torch_dtype
        self._device = device
        self._prompts = prompts
        self._observer = observer
        self._together = together(prompts)
        self._ropes = [rope(self._spec, p.positions, self._dtype, device) for p in prompts]
        self._convert = Conversion(self._dtype, device)
        self._ids = tokens_of(prompts)
        self._xs: Prompts = []

    def run(self, ranks: Ranks, reader: Reader, loader: Loader, begin: Begin) -> None:
        """All stages, or those of this process."""
        layers = {i: units.layer(self._source, i) for i in ranks.layers(self._spec.n_layers)}
        head = list(units.head_units(self._source)) if ranks.leads else []
        row_bytes = self._spec.vocab_size * self._dtype.itemsize
        passes = head_passes(self._prompts, row_bytes, on_cpu=self._device.type == "cpu")
        everything = [*layers.values(), *head]
        self._convert.prepare(
            max((largest_converted(u, self._dtype) for u in everything), default=0)
        )
        again = 0 if self._resident else len(passes) - 1
        total = loader.to_read(list(layers.values())) + (1 + again) * loader.to_read(head)
        reader.begin(begin(total + (beside(self._source, self._prompts) if ranks.leads else 0)))
        self._xs = self._embedded(reader) if ranks.leads else self._empty()
        self._layers(layers, ranks, loader)
        ranks.part()
        if ranks.leads:
            self._norm(reader)
            for rows in passes:
                self._head(rows, head, loader)

    def _empty(self) -> Prompts:
        """Room for states that another process sends."""
        shapes = ((len(p.tokens), self._spec.dim) for p in self._prompts)
        return [torch.empty(s, dtype=self._dtype, device=self._device) for s in shapes]

    def _show(self, point: Point) -> None:
        for i, x in enumerate(self._xs):
            self._observer.hidden(i, point, x)

    def _number(self, value: Expr, bits: Bits) -> torch.Tensor:
        """Bits of a tensor's elements, as numbers of the run."""
        stored = torch.from_numpy(bits).view(getattr(torch, value.dtype.torch))
        return stored.to(self._device).to(self._dtype)

    def _embedded(self, reader: Reader) -> Prompts:
        """Rows of the embedding, each read once: (n, d) of each prompt."""
        value = bare(self._source.values[EMBEDDING])
        table = self._number(value, reader.rows(value, self._ids))  # (ids, d)
        place = {t: i for i, t in enumerate(self._ids)}
        self._xs = [table[[place[t] for t in p.tokens]] for p in self._prompts]
        self._show(Point("embedding"))
        return self._xs

    def _layers(self, mine: dict[int, Unit], ranks: Ranks, loader: Loader) -> None:
        """Each layer of this process, once the states of the one before it are there."""
        last = self._spec.n_layers - 1
        with closing(loader.stream(list(mine.values()))) as stream:
            for i in range(self._spec.n_layers):
                owner, before, after = (ranks.owner(j) for j in (i, max(i - 1, 0), i + 1))
                if i in mine:
                    weights = self._convert.of(*next(stream))
                    if before != owner and not ranks.leads:  # process 0 has all of them
                        self._xs = ranks.receive(self._xs, before)
                    self._layer(i, weights, ranks)
                    if i < last and after not in (0, owner):
                        ranks.send(self._xs, after)
                elif ranks.leads:
                    self._layer_of(owner, i, ranks)
            next(stream, None)  # gives back the last

    def _layer(self, i: int, weights: Weights, ranks: Ranks) -> None:
        for kind, half in HALVES:
            for run in self._together:
                self._half(half, run, weights)
            if ranks.leads:
                self._show(Point(kind, i))
            else:
                ranks.send(self._xs, 0)

    def _layer_of(self, owner: int, i: int, ranks: Ranks) -> None:
        for kind, _ in HALVES:
            self._xs = ranks.receive(self._xs, owner)
            self._show(Point(kind, i))

    def _half(self, half: Half, run: list[int], weights: Weights) -> None:
        xs, ropes = [self._xs[i] for i in run], [self._ropes[i] for i in run]
        for i, x in zip(run, half(xs, weights, ropes, self._spec), strict=True):
            self._xs[i] = x

    def _norm(self, reader: Reader) -> None:
        value = bare(self._source.values[units.FINAL_NORM])
        gain = self._number(value, reader.rows(value, range(value.rows))[:, 0])  # (d,)
        self._xs = [rms_norm(x, gain, self._spec.norm_eps) for x in self._xs]
        self._show(Point("norm"))

    def _head(self, rows: Sequence[Rows], head: Sequence[Unit], loader: Loader) -> None:
        """Logits of some rows, the head read once for all of them."""
        vocab = self._spec.vocab_size
        logits = [
            torch.empty(len(r.rows), vocab, dtype=self._dtype, device=self._device) for r in rows
        ]
        with closing(loader.stream(head)) as stream:
            for unit, memory in stream:
                start, stop = unit.pieces[0].start, unit.pieces[0].stop
                weight = self._convert.of(unit, memory)(HEAD)
                assert weight is not None
                for r, out in zip(rows, logits, strict=True):
                    x = self._xs[r.prompt][r.rows.start : r.rows.stop]
                    out[:, start:stop] = F.linear(x, weight)
        for r, out in zip(rows, logits, strict=True):
            self._observer.logits(r.prompt, r.rows, out)
