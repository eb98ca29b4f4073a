"""A plan: everything a run will do, as data. It prints and compares without a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm

from llamatools.containers.base import FileLayout
from llamatools.expr.nodes import Expr
from llamatools.spec import ModelSpec


@dataclass(frozen=True)
class Target:
    """Where a part of a canonical tensor goes: part of it, into one slot of one file.

    The part is rows or columns start..stop of the tensor after its rows are put in native order.
    """

    file: int
    slot: int
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Step:
    """One canonical tensor: how it is computed, and every place it is written to."""

    name: str
    value: Expr
    targets: tuple[Target, ...] = ()
    pair_heads: int | None = None
    """Heads whose rows are stored in pairs by the targets; None: canonical row order."""

    @property
    def granule(self) -> int:
        """Rows that a block must not split."""
        return lcm(self.value.granule, self.value.rows // self.pair_heads if self.pair_heads else 1)

    @property
    def splits_columns(self) -> bool:
        return any(t.axis == 1 and t.stop - t.start != self.value.columns for t in self.targets)

    def memory(self, rows: int) -> int:
        """Bytes that a block of `rows` rows takes, from reading to writing."""
        block = rows * self.value.row_bytes
        copies = 1 + (self.pair_heads is not None) + self.splits_columns
        return copies * block + self.value.scratch_bytes(rows)


@dataclass(frozen=True)
class PlannedFile:
    name: str
    layout: FileLayout


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which their bytes stand in the files, and the files around them."""

    spec: ModelSpec
    steps: tuple[Step, ...]
    files: tuple[PlannedFile, ...] = ()
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Small files written whole: configs and indexes."""
    notes: tuple[str, ...] = ()
    """What the layout that is written cannot say of the model."""
    travellers: tuple[str, ...] = ()
    """Names of files copied from the source folder as they are."""
    conflicts: tuple[str, ...] = ()
    """Where files that go along disagree with each other or with the model."""
    tokenizer: Mapping[str, object] | None = None
    """What tokenizer was converted, and how it was checked; None where none was."""
    vocabulary: Mapping[str, object] | None = None
    """Where the rows of a new vocabulary come from; None where it is the source's."""
    merge: Mapping[str, object] | None = None
    """Which fine-tunes are merged, and how; None where there are none."""
    unused: tuple[Step, ...] = ()
    """The source's tensors that no step reads; they are digested, and written nowhere."""
    source_names: tuple[str, ...] = ()
    """The canonical tensors of a source that is changed, for its fingerprint."""

    @property
    def work(self) -> tuple[Step, ...]:
        """Everything that is read and digested."""
        return (*self.steps, *self.unused)

    @property
    def multiplies(self) -> bool:
        """Whether any value is a product of matrices."""
        return any(s.value.multiplies for s in self.steps)

    @property
    def read_bytes(self) -> int:
        return sum(t.nbytes for s in self.work for t in s.value.reads())

    @property
    def write_bytes(self) -> int:
        weights = sum(f.layout.size for f in self.files)
        return weights + sum(len(d) for d in self.documents.values())

    def block_rows(self, step: Step, block_bytes: int) -> int:
        """Rows per block of a step: about `block_bytes`, whole granules, at least one."""
        granule = step.granule
        return max(1, block_bytes // max(1, step.value.row_bytes) // granule) * granule

    def peak(self, block_bytes: int) -> int:
        """Scratch bytes that one worker needs at most."""
        return max(
            (s.memory(min(s.value.rows, self.block_rows(s, block_bytes))) for s in self.work),
            default=0,
        )
