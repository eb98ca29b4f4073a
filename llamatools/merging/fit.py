"""An adapter's parts held against the base: every module and every shape, all problems at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from llamatools.adapters.part import Adapter, Part
from llamatools.canonical import EMBEDDING, HEAD
from llamatools.layouts.hf import HF
from llamatools.text import listing, safe

Shapes = Mapping[str, tuple[int, ...]]
"""Canonical name -> shape."""

_VOCABULARY = (EMBEDDING, HEAD)


class Names:
    """Hugging Face's module paths, and the canonical names of their tensors."""

    def __init__(self, n_layers: int) -> None:
        self._canonical = {native: canonical for canonical, native, _ in HF.expand(n_layers)}

    def of(self, module: str, leaf: str) -> str | None:
        """The canonical name of a module's weight or bias; None where a Llama has none.

        An adapter trained on the bare model, without its head, leaves out the first word.
        """
        for path in (module, f"model.{module}"):
            name = self._canonical.get(f"{path}.{leaf}")
            if name is not None:
                return name
        return None

    def path(self, module: str) -> str:
        """A module's whole path in the base, as far as it has one."""
        inner = f"model.{module}"
        return inner if f"{inner}.weight" in self._canonical else module

    def modules(self, tensors: Collection[str]) -> list[str]:
        """Every module whose weight is among the tensors."""
        return [
            native.removesuffix(".weight")
            for native, canonical in self._canonical.items()
            if canonical in tensors and native.endswith(".weight")
        ]


def misfits(adapter: Adapter, names: Names, shapes: Shapes) -> list[str]:
    """Every way in which an adapter does not fit the tensors it is to be merged into."""
    problems: list[str] = []
    unknown = []
    for part in adapter.parts.values():
        name = names.of(part.module, "weight")
        if name is None or name not in shapes:
            unknown.append(part.module)
            continue
        problems += _weight_misfits(part, name, shapes[name])
        problems += _bias_misfits(part, names.of(part.module, "bias"), shapes)
    if unknown:
        problems.insert(0, f"the base has no such modules: {listing(unknown)}")
    return [f"adapter {safe(adapter.name)}: {p}" for p in problems]


def _weight_misfits(part: Part, name: str, shape: tuple[int, ...]) -> list[str]:
    where, out = safe(part.module), []
    if part.weight is not None:
        grows = name in _VOCABULARY and part.weight.shape[1:] == shape[1:]
        if part.weight.shape != shape and not grows:
            return [
                f"{where}: a weight of shape {list(part.weight.shape)}, the base's is {list(shape)}"
            ]
        shape = part.weight.shape
    low = part.low_rank
    if low is not None and (len(shape) != 2 or (low.left.rows, low.right.columns) != shape):
        out.append(
            f"{where}: factors for a weight of shape {[low.left.rows, low.right.columns]}, "
            f"the base's is {list(shape)}"
        )
    if part.magnitude is not None:
        wanted = shape[1] if part.is_embedding else shape[0]
        if [n for n in part.magnitude.shape if n != 1] != [wanted][: wanted != 1]:
            out.append(
                f"{where}: a magnitude vector of shape {list(part.magnitude.shape)}, "
                f"expected {wanted} numbers"
            )
    if part.tokens is not None:
        indices, rows = part.tokens
        if rows.columns != shape[-1]:
            out.append(f"{where}: rows of {rows.columns} numbers, the base's have {shape[-1]}")
        beyond = [i for i in indices if i >= shape[0]]
        if beyond:
            out.append(
                f"{where}: tokens {listing(beyond)} are beyond the vocabulary of {shape[0]:,}"
            )
    return out


def _bias_misfits(part: Part, name: str | None, shapes: Shapes) -> list[str]:
    shape = shapes.get(name) if name else None
    out = []
    for what, y in (
        ("bias", part.bias),
        ("bias of lora_B", part.added_bias and part.added_bias[1]),
    ):
        if y is None:
            continue
        if shape is None:
            out.append(f"{safe(part.module)}: a {what}, but the base has no bias there")
        elif y.shape != shape:
            out.append(
                f"{safe(part.module)}: a {what} of shape {list(y.shape)}, "
                f"the base's is {list(shape)}"
            )
    return out
