"""Every tensor in its turn: its difference, the factors of that, and what they lose as stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch

from llamatools.engine.checksums import RecordChecks
from llamatools.errors import BadInput
from llamatools.extraction.choice import Extract, Task, Use
from llamatools.extraction.config import bias_name, factor_names
from llamatools.extraction.crew import Crew
from llamatools.extraction.difference import Measured, matrix, measure
from llamatools.extraction.factors import low_rank, residual
from llamatools.extraction.pairs import Pair
from llamatools.extraction.spool import Spool
from llamatools.merging.tied import HEAD_MODULE
from llamatools.plan.build import DTYPES

_SHOWN = 20
"""Problems listed at once."""


@dataclass(frozen=True)
class Found:
    """What became of one tensor."""

    task: Task
    measured: Measured
    lost: float = 0.0
    """The sum of the squares of what the adapter lacks of the difference."""
    rank: int | None = None
    energies: tuple[float, ...] = ()
    """Squares of the difference's leading singular values."""

    @property
    def pair(self) -> Pair:
        return self.task.pair

    @property
    def use(self) -> Use:
        return self.task.use

    @property
    def differs(self) -> bool:
        return self.measured.differs

    @property
    def error(self) -> float:
        """|difference - what is stored of it| / |difference|"""
        return total_error([self])


def total_error(found: Sequence[Found]) -> float:
    """The same of several tensors, taken as one long vector."""
    energy = sum(f.measured.energy for f in found)
    return sqrt(sum(f.lost for f in found) / energy) if energy else 0.0


def stored_type(wishes: Extract) -> torch.dtype:
    """Of factors in the file."""
    found: torch.dtype = getattr(torch, DTYPES[wishes.dtype].torch)
    return found


class Worker:
    """Works off tasks; factors go into the spool under their names in the file."""

    def __init__(self, wishes: Extract, spool: Spool, crew: Crew, *, tied: bool) -> None:
        """`tied`: the head is the embedding in both models."""
        self._rank = wishes.rank
        self._type = stored_type(wishes)
        self._tied = tied
        self._spool = spool
        self._crew = crew
        self._checks = RecordChecks()
        self._not_numbers: list[str] = []
        self._too_large: list[str] = []

    def all(self, tasks: Sequence[Task], progress: Callable[[int], None]) -> list[Found]:
        """What became of each. BadInput lists every tensor that holds what is no number."""
        how = {
            Use.FACTORS: self._factors, Use.BIAS: self._bias, Use.FULL: self._full,
            Use.OUT: self._out,
        }  # fmt: skip
        found = []
        for task in tasks:
            found.append(how[task.use](task))
            progress(task.pair.nbytes)
        self._checks.finish()
        problems = [*self._not_numbers, *self._too_large]
        if problems:
            hint = "fp32 and bf16 have the range that fp16 lacks" if self._too_large else None
            raise BadInput(problems[:_SHOWN], hint=hint)
        return found

    def _measure(self, pair: Pair, out: torch.Tensor | None = None) -> Measured:
        measured = measure(pair, self._crew, self._checks, out)
        if measured.differs and not measured.finite:
            self._not_numbers.append(
                f"{pair.native}: differs, and holds NaN or infinity, or numbers as large"
            )
        return measured

    def _out(self, task: Task) -> Found:
        measured = self._measure(task.pair)
        return Found(task, measured, lost=measured.energy)

    def _full(self, task: Task) -> Found:
        return Found(task, self._measure(task.pair))

    def _factors(self, task: Task) -> Found:
        pair = task.pair
        d = matrix(pair)
        measured = self._measure(pair, d)
        if not measured.differs or self._not_numbers:  # after which nothing will be written
            return Found(task, measured)
        factors = low_rank(d, self._rank, measured.energy, self._crew)
        left, right = self._stored(pair, factors.left, factors.right)
        lost = residual(d, left, right, self._crew)
        self._keep(pair.module, left, right, embedding=pair.is_embedding)
        if pair.is_embedding and self._tied:
            self._keep(HEAD_MODULE, left, right, embedding=False)
        return Found(task, measured, lost, len(right), factors.energies)

    def _keep(
        self, module: str, left: torch.Tensor, right: torch.Tensor, *, embedding: bool
    ) -> None:
        """Factors (rows, r) and (r, columns) under a module's names."""
        a, b = factor_names(module, embedding=embedding)
        self._spool.add(a, left.T if embedding else right)
        self._spool.add(b, right.T if embedding else left)

    def _bias(self, task: Task) -> Found:
        pair = task.pair
        d = matrix(pair)  # (rows, 1)
        measured = self._measure(pair, d)
        if not measured.differs or self._not_numbers:
            return Found(task, measured)
        (stored,) = self._stored(pair, d[:, 0])
        self._spool.add(bias_name(pair.module), stored)
        rest = d[:, 0].to(torch.float64) - stored.to(torch.float64)
        return Found(task, measured, float(torch.dot(rest, rest)))

    def _stored(self, pair: Pair, *wide: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rounded to the adapter's type."""
        out = tuple(x.to(self._type) for x in wide)
        if not all(bool(x.isfinite().all()) for x in out):
            self._too_large.append(
                f"{pair.native}: its difference is beyond the range of the adapter's type"
            )
        return out
