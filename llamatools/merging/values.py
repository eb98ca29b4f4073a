"""From a base and its adapters to a checkpoint whose values are the merged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamatools.adapters.part import Adapter, Part
from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.dtypes import DType
from llamatools.errors import BadInput
from llamatools.expr.held import Held
from llamatools.expr.nodes import Expr, ToHalves, Witnessed
from llamatools.layouts.table import RowOrder
from llamatools.merging.chain import Chain, advance
from llamatools.merging.copies import without_copies
from llamatools.merging.fit import Names, misfits
from llamatools.merging.tied import as_one, as_two, shared_start, unties
from llamatools.plan.passes.cast import cast
from llamatools.plan.passes.merge import Merged
from llamatools.plan.plan import Step
from llamatools.spec import ModelSpec
from llamatools.text import safe

_HINT = "was the adapter trained on this very base?"


@dataclass(frozen=True)
class Edited:
    """The base as if it had always been the merged model."""

    checkpoint: Checkpoint
    unused: tuple[Step, ...]
    """The base's tensors that are replaced, and so not read for the output."""


def merge_values(
    base: Checkpoint, adapters: Sequence[Adapter], weights: Sequence[float] | None
) -> Edited:
    """Plan what becomes of every tensor. BadInput lists all that does not fit."""
    state = _State(base)
    for i, adapter in enumerate(adapters):
        state.take(adapter, None if weights is None else weights[i])
    return state.finish()


def _in_halves(part: Part, spec: ModelSpec) -> Part:
    """A part with its rows in canonical order; the base alone tells the number of heads."""
    heads = part.order.heads(spec)
    if heads is None:
        return part
    low, bias, magnitude = part.low_rank, part.added_bias, part.magnitude
    return replace(
        part,
        low_rank=low and replace(low, left=Held(ToHalves(low.left, heads))),
        added_bias=bias and (bias[0], Held(ToHalves(bias[1], heads))),
        magnitude=magnitude and Held(ToHalves(magnitude, heads)),
        order=RowOrder.SAME,
    )


class _State:
    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._names = Names(base.spec.n_layers)
        self._tied = base.spec.tied
        self._chains = {name: Chain(value) for name, value in base.values.items()}
        if self._tied:
            self._chains.pop(HEAD, None)

    def take(self, adapter: Adapter, weight: float | None) -> None:
        """One adapter more."""
        parts = {m: _in_halves(p, self._base.spec) for m, p in adapter.parts.items()}
        adapter = replace(adapter, parts=parts)
        stored = {HEAD: self._base.values[EMBEDDING], **self._base.values}
        adapter = without_copies(adapter, self._names, stored)
        if self._tied:
            adapter = as_two(adapter, self._names)
        if self._tied and unties(adapter, self._names):
            self._tied = False
            start = shared_start(adapter, self._names)
            both = self._chains[EMBEDDING] if start is None else Chain(start)
            self._chains[EMBEDDING] = self._chains[HEAD] = both
        elif self._tied:
            adapter = as_one(adapter, self._names)
        shapes = {name: chain.shape for name, chain in self._chains.items()}
        problems = misfits(adapter, self._names, shapes)
        if problems:
            raise BadInput(problems[:20], hint=_HINT)
        for part in adapter.parts.values():
            for leaf, new in (("weight", part.weight), ("bias", part.bias)):
                name = self._names.of(part.module, leaf)
                if name is None or name not in self._chains:
                    continue
                chain = self._chains[name]
                if weight is not None and new is not None and new.shape != chain.shape:
                    raise BadInput(
                        f"adapter {safe(adapter.name)}: {safe(part.module)} has another shape than "
                        "the base's, so that there is no weighted sum",
                        hint="leave out --weights to merge in sequence",
                    )
                self._chains[name] = advance(chain, new, part, weight, bias=leaf == "bias")
        self._check_vocabulary(adapter)

    def _check_vocabulary(self, adapter: Adapter) -> None:
        rows = self._chains[EMBEDDING].shape[0]
        head = self._chains.get(HEAD)
        if head is not None and head.shape[0] != rows:
            raise BadInput(
                f"adapter {safe(adapter.name)}: with it the embedding has {rows:,} rows and the "
                f"head {head.shape[0]:,}",
                hint="the adapter was saved without one of the two: train with both in "
                "modules_to_save, or save with save_embedding_layers=True",
            )

    def finish(self) -> Edited:
        base = self._base
        values = {name: self._value(name, chain) for name, chain in self._chains.items()}
        if self._tied and HEAD in base.values:
            values[HEAD] = values[EMBEDDING]
        rows = self._chains[EMBEDDING].shape[0]
        spec = replace(base.spec, tied=self._tied, vocab_size=rows)
        merged = replace(base, values=values, spec=spec, same_head=base.same_head and self._tied)
        unused = tuple(
            Step(name, Witnessed(value, name))
            for name, value in base.values.items()
            if name in self._chains and self._chains[name].start is not value
        )
        return Edited(merged, unused)

    def _value(self, name: str, chain: Chain) -> Expr:
        own = self._base.values.get(name)
        start = Witnessed(chain.start, name) if chain.start is own else chain.start
        to = self._dtype(name)
        if chain.edits:
            return Merged(start, name, chain.edits, to)
        return start if chain.start is own else cast(name, start, to)

    def _dtype(self, name: str) -> DType:
        """A tensor keeps its type, whatever the adapter's is; a new head has the embedding's."""
        values = self._base.values
        return (values.get(name) or values[EMBEDDING]).dtype
