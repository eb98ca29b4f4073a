"""An observer of a forward pass that holds it against a golden file, and keeps numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamatools.golden.digests import take
from llamatools.golden.model import Golden, GoldenPrompt
from llamatools.golden.record import batches
from llamatools.golden.sketch import Floats, as_numpy, mean_square, sketch
from llamatools.reference.observe import Point, Prompt
from llamatools.verifying.rows import Rows, against_digest, against_full, finite_rows, join

if TYPE_CHECKING:
    import torch

_SHIFTS = (0, 1, -1)
"""Tried on the last row of each batch that is there in full."""


@dataclass(frozen=True)
class Compared:
    """What a run was like: for every prompt, every position."""

    prompts: tuple[Prompt, ...]
    rows: tuple[Rows, ...]
    """Of the logits, by prompt."""
    hidden: dict[Point, tuple[Floats, ...]]
    """Point -> by prompt, rms(difference) / rms(golden) of every position; infinite where there is
    NaN. Points in the order of the forward pass; those the golden has and the run met."""
    unmet: tuple[Point, ...]
    """Points that one of the two lacks."""
    broken: Point | None
    """The first point with NaN or infinity."""
    shift: int
    """Logits agree once the found ones are moved by so many ids; 0 where no shift helps."""


class Comparer:
    """Implements Observer, for the golden's own prompts in their order."""

    def __init__(self, golden: Golden) -> None:
        self._golden = golden
        self._index = {p: i for i, p in enumerate(golden.points)}
        self._rows: list[list[Rows]] = [[] for _ in golden.prompts]
        self._hidden: dict[Point, list[Floats]] = {}
        self._unknown: list[Point] = []
        self._broken: Point | None = None
        self._shifts = dict.fromkeys(_SHIFTS, 0.0)
        self.dtype = ""
        """Of the run, as torch names it."""

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        values = as_numpy(x)
        finite = finite_rows(values)
        if not finite.all():
            self._broken = self._broken or point
            values = np.where(finite[:, None], values, 0.0)
        golden = self._golden.prompts[prompt].hidden
        if golden is None or self._golden.dim != values.shape[1] or point not in self._index:
            if self._golden.points and point not in self._unknown:
                self._unknown.append(point)
            return
        at = self._index[point]
        rms = golden.rms[at]
        error = np.sqrt(mean_square(sketch(values) - golden.sketch[at], values.shape[1]))
        floor = 1e-3 * float(np.sqrt(np.square(rms).mean()))  # a row of zeros is no scale
        relative = error / np.maximum(rms, floor or 1.0)
        self._hidden.setdefault(point, []).append(np.where(finite, relative, np.inf))

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        golden = self._golden.prompts[prompt]
        self.dtype = str(x.dtype).removeprefix("torch.")
        for part in _parts(golden, rows, x.shape[1]):
            values = as_numpy(x[part.start - rows.start : part.stop - rows.start])
            first = golden.first_full
            if part.start >= first and golden.full is not None:
                wanted = golden.full.read(part.start - first, part.stop - first)
                found = against_full(values, wanted)
                for by in _SHIFTS:
                    moved = np.roll(values[-1], by) - wanted[-1]
                    self._shifts[by] += float(np.square(moved).mean())
            else:
                assert golden.digest is not None, "a position has its logits or a digest of them"
                found = against_digest(values, take(golden.digest, part.start, part.stop))
            self._rows[prompt].append(found)

    def finish(self) -> Compared:
        met = [p for p in self._golden.points if p in self._hidden]
        return Compared(
            prompts=tuple(p.prompt for p in self._golden.prompts),
            rows=tuple(join(parts) for parts in self._rows),
            hidden={p: tuple(self._hidden[p]) for p in met},
            unmet=(*(p for p in self._golden.points if p not in self._hidden), *self._unknown),
            broken=self._broken,
            shift=self._shift(),
        )

    def _shift(self) -> int:
        """The shift that leaves a hundredth of the difference, of a few rows' logits."""
        best = min(_SHIFTS, key=lambda by: self._shifts[by])
        return best if self._shifts[best] < 1e-4 * self._shifts[0] else 0


def _parts(golden: GoldenPrompt, rows: range, vocabulary: int) -> list[range]:
    """Batches of rows of which either all or none have their logits in full."""
    cut = min(max(golden.first_full, rows.start), rows.stop)
    halves = range(rows.start, cut), range(cut, rows.stop)
    return [part for half in halves for part in batches(half, vocabulary)]
