"""Expressions: how a tensor is computed from bytes in files, as data.

An expression knows its shape, its element type, how many rows belong together (`granule`),
how much scratch memory a block of rows needs, and how to fill a block with the elements' bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeVar

import numpy as np

from llamatools.containers.base import StoredTensor
from llamatools.dtypes import DType
from llamatools.errors import BadInput
from llamatools.expr.bits import Bits, halves_from_pairs
from llamatools.text import safe

T = TypeVar("T")


class Context(Protocol):
    """What filling a block may use: file access and scratch memory of one worker."""

    def read(self, tensor: StoredTensor, offset: int, out: Bits) -> None:
        """Fill a contiguous array with the file's bytes from absolute `offset` on."""
        ...

    def scratch(self, rows: int, columns: int, dtype: DType) -> AbstractContextManager[Bits]:
        """An uninitialised array, given back when the context ends."""
        ...

    def note(self, key: str, counts: Mapping[str, int]) -> None:
        """Add counts to the run's statistics under `key`."""
        ...

    def witness(self, name: str, value: Expr, start: int, block: Bits) -> None:
        """Take note of a tensor's rows from `start` on, as they are before a pass changes them.

        A run is shown every row of a tensor, in order, by the blocks of one step.
        """
        ...

    def once(self, key: object, make: Callable[[], T]) -> T:
        """The result of `make`, called once in a step for this very object, equal ones aside.

        Other workers that ask meanwhile wait. Where `make` fails, all get its exception.
        """
        ...


@dataclass(frozen=True)
class Expr(ABC):
    """Base of all nodes."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def dtype(self) -> DType: ...

    @abstractmethod
    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        """Put rows start .. start + len(out) into `out` (rows, columns), any strides."""

    @abstractmethod
    def scratch_bytes(self, rows: int) -> int:
        """Scratch memory that filling `rows` rows takes at most."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Expr, ...]: ...

    @property
    def granule(self) -> int:
        """Blocks begin and end at multiples of this many rows."""
        return max((i.granule for i in self.inputs), default=1)

    @property
    def multiplies(self) -> bool:
        """Whether matrices are multiplied on the way."""
        return any(i.multiplies for i in self.inputs)

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return self.columns * self.dtype.size

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    def reads(self) -> Iterator[StoredTensor]:
        """Every stored tensor the expression needs."""
        for i in self.inputs:
            yield from i.reads()

    @abstractmethod
    def describe(self) -> str:
        """The expression in one line, for people."""


@dataclass(frozen=True)
class Read(Expr):
    """A stored tensor, as it lies."""

    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return ()

    def reads(self) -> Iterator[StoredTensor]:
        yield self.tensor

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        t = self.tensor
        if not t.contiguous:
            _gather(t, out, start, ctx)
        elif out.flags.c_contiguous:
            ctx.read(t, t.offset + start * self.row_bytes, out)
        else:
            with ctx.scratch(len(out), self.columns, t.dtype) as block:
                ctx.read(t, t.offset + start * self.row_bytes, block)
                np.copyto(out, block)

    def scratch_bytes(self, rows: int) -> int:
        return rows * self.row_bytes if self.tensor.contiguous else _GATHER_BYTES

    def describe(self) -> str:
        return f"{safe(self.tensor.file.name)}:{safe(self.tensor.name)}"


_GATHER_BYTES = 4 << 20


def _gather(t: StoredTensor, out: Bits, start: int, ctx: Context) -> None:
    """Rows of a strided tensor, read in runs along whichever axis is denser in the file.

    A run is cut so that its span in the file, gaps included, stays within _GATHER_BYTES.
    """
    row_stride, column_stride = (*t.strides, 1)[:2]
    first = t.offset + start * row_stride * t.dtype.size
    along_rows = row_stride < column_stride and len(out) > 1
    target = out.T if along_rows else out  # (lines, run)
    line_stride, stride = (column_stride, row_stride) if along_rows else (row_stride, column_stride)
    limit = max(1, _GATHER_BYTES // t.dtype.size // max(1, stride))
    for i, line in enumerate(target):
        for j in range(0, len(line), limit):
            piece = line[j : j + limit]
            span = (len(piece) - 1) * stride + 1
            with ctx.scratch(1, span, t.dtype) as run:
                ctx.read(t, first + (i * line_stride + j * stride) * t.dtype.size, run)
                piece[...] = run[0, ::stride] if stride else run[0, 0]


@dataclass(frozen=True)
class Concat(Expr):
    """Parts side by side along an axis (0: rows, 1: columns)."""

    axis: int
    parts: tuple[Expr, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        joined = sum(p.shape[self.axis] for p in self.parts)
        head = self.parts[0].shape
        return (*head[: self.axis], joined, *head[self.axis + 1 :])

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return self.parts

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        if self.axis == 1:
            at = 0
            for p in self.parts:
                p.fill(out[:, at : at + p.columns], start, ctx)
                at += p.columns
            return
        at = 0  # row of `self` where the part begins
        for p in self.parts:
            lo, hi = max(start, at), min(start + len(out), at + p.rows)
            if lo < hi:
                p.fill(out[lo - start : hi - start], lo - at, ctx)
            at += p.rows

    def scratch_bytes(self, rows: int) -> int:
        return max(p.scratch_bytes(rows) for p in self.parts)

    def describe(self) -> str:
        side = ("rows", "columns")[self.axis]
        return f"{side}({', '.join(p.describe() for p in self.parts)})"


@dataclass(frozen=True)
class Agree(Expr):
    """Copies of one tensor that must be equal bit for bit; BadInput where they are not."""

    name: str
    copies: tuple[Expr, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.copies[0].shape

    @property
    def dtype(self) -> DType:
        return self.copies[0].dtype

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return self.copies

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.copies[0].fill(out, start, ctx)
        for other in self.copies[1:]:
            with ctx.scratch(len(out), self.columns, self.dtype) as block:
                other.fill(block, start, ctx)
                if not np.array_equal(out, block):
                    raise BadInput(
                        f"{safe(self.name)}: {other.describe()} differs from "
                        f"{self.copies[0].describe()}, and both hold copies of the same values",
                        hint="the files do not belong to the same model, or one is damaged",
                    )

    def scratch_bytes(self, rows: int) -> int:
        return rows * self.row_bytes + max(c.scratch_bytes(rows) for c in self.copies)

    def describe(self) -> str:
        return f"equal({', '.join(c.describe() for c in self.copies)})"


@dataclass(frozen=True)
class Unary(Expr):
    """An expression of one other, of the same shape; and of the same type, unless it says so."""

    x: Expr

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def dtype(self) -> DType:
        return self.x.dtype

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x,)

    def scratch_bytes(self, rows: int) -> int:
        return rows * self.x.row_bytes + self.x.scratch_bytes(rows)


@dataclass(frozen=True)
class ToHalves(Unary):
    """Meta's order to HF's: neighbouring pairs of rows become two halves of each head."""

    heads: int

    @property
    def granule(self) -> int:
        return self.rows // self.heads

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        with ctx.scratch(len(out), self.columns, self.dtype) as block:
            self.x.fill(block, start, ctx)
            halves_from_pairs(block, out, self.granule)

    def describe(self) -> str:
        return f"halves[{self.heads}]({self.x.describe()})"


@dataclass(frozen=True)
class Witnessed(Unary):
    """`x` as it is, shown to the run: what a pass is about to change has a digest, too."""

    name: str

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.x.fill(out, start, ctx)
        ctx.witness(self.name, self, start, out)

    def scratch_bytes(self, rows: int) -> int:
        return self.x.scratch_bytes(rows)

    def describe(self) -> str:
        return self.x.describe()


def bare(value: Expr) -> Expr:
    """An expression that nobody watches."""
    return value.x if isinstance(value, Witnessed) else value


def concat(axis: int, parts: tuple[Expr, ...]) -> Expr:
    """Parts joined along an axis; a single part is itself."""
    return parts[0] if len(parts) == 1 else Concat(axis, parts)


def agree(name: str, copies: tuple[Expr, ...]) -> Expr:
    """Copies that must agree; a single one is itself."""
    return copies[0] if len(copies) == 1 else Agree(name, copies)
