"""What an adapter holds, whatever format it came in: factors and tensors by the base's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.adapters.config import Config
from llamatools.containers.base import InputFile
from llamatools.expr.nodes import Expr
from llamatools.layouts.table import RowOrder


@dataclass(frozen=True)
class LowRankPart:
    """scale · left · right, of the module's weight: (rows, r) and (r, columns)."""

    left: Expr
    right: Expr
    scale: float


@dataclass(frozen=True)
class Part:
    """All that an adapter says of one module, in the order in which it takes effect."""

    module: str
    """As Hugging Face names it, without ".weight"."""
    weight: Expr | None = None
    """In place of the base's."""
    bias: Expr | None = None
    tokens: tuple[tuple[int, ...], Expr] | None = None
    """(row numbers, rows) in place of the weight's."""
    low_rank: LowRankPart | None = None
    added_bias: tuple[float, Expr] | None = None
    """(scale, what is added to the bias)"""
    magnitude: Expr | None = None
    """DoRA: lengths of the weight's rows, or of an embedding's columns."""
    trained: bool = True
    """False for a weight that merely goes along: the base's own, of another size perhaps."""
    is_embedding: bool = False
    """Its low-rank factors are an embedding's, whose columns DoRA measures."""
    order: RowOrder = RowOrder.SAME
    """Of the rows of its left factor, its added bias and its magnitude, as they are here."""


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. Its file is open as long as anything means to read from it."""

    name: str
    format: str
    """"peft", or whose layout it is."""
    kind: str
    """For people: "LoRA", "DoRA" ..."""
    parts: Mapping[str, Part]
    file: InputFile
    config: Config | None = None
    """Of PEFT's adapters: what it names for training."""
    keeps_tied: bool = False
    """A change of the embedding or the head is one of both."""
    base_model: str | None = None
    """Name of the model it was trained on, as it says."""
    digest: str = ""
    """BLAKE3 of every tensor and scale."""
    notes: tuple[str, ...] = ()
