"""The best approximation of a matrix by two factors of a given rank.

A small matrix is taken apart exactly, by the eigenvectors of its Gram matrix. A large one by block
Krylov iteration: G = D^T D, applied again and again to a block of random directions, spans a space
that soon holds the leading singular vectors; the best ones within that space are taken. It stops
when another step would hardly lower the error.

Sums are in fp64 whatever the matrix is stored in. The random directions are always the same and
torch's own generator is left alone, so that a matrix has one result on one machine, to the bit,
whatever the number of threads (see crew.py). Another processor or another version of torch may
round otherwise.

Memory, beside the matrix: a few blocks of it in fp64, and the basis, (shorter side) x (steps x
(rank + 8)) in fp64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from llamatools.extraction.crew import Crew

_BLOCK = 1 << 20
"""Elements of a matrix that are widened and multiplied at once."""
_SMALL = 1024
"""Shorter side of matrices that are always taken apart exactly."""
_SPARE = 8
"""Directions beyond the rank that are kept while searching: they make it converge."""
_STEPS = 8
_WORTH = 1e-4
"""A step that takes less than this share from the square of what is left is the last."""
_ROUNDING = 1e-15
"""Share of the square of a matrix that fp64 cannot tell from nothing."""
_NOTHING = 1e-12
"""Singular values smaller than this part of the largest are zeros with rounding errors."""
_SEED = 1912


@dataclass(frozen=True)
class Factors:
    """left · right, with the square roots of the singular values in both."""

    left: torch.Tensor
    """(rows, r), fp64"""
    right: torch.Tensor
    """(r, columns), fp64"""
    energies: tuple[float, ...]
    """Squares of singular values, largest first, as far as they are known."""


def low_rank(d: torch.Tensor, rank: int, energy: float, crew: Crew) -> Factors:
    """Factors of `d` (m, n), which is not zero and whose squares add up to `energy`.

    Their rank is `rank`, or that of the matrix where it is smaller.
    """
    tall = Tall(d, crew)
    wanted = min(rank, tall.width)
    search = _exact if _is_small(tall.width, wanted) else _krylov
    directions, energies = search(tall, wanted, energy)  # (short side, wanted + spare)
    # The best within the span of the directions; again a matter of singular values, of few columns.
    image = tall.times(directions)  # (long side, wanted + spare)
    u, s, vh = torch.linalg.svd(image, full_matrices=False)
    r = min(wanted, int((s > s[0] * _NOTHING).sum()))
    roots = s[:r].sqrt()
    long = u[:, :r] * roots  # (long side, r)
    short = roots[:, None] * (vh[:r] @ directions.T)  # (r, short side)
    left, right = (short.T, long.T) if tall.turned else (long, short)
    return Factors(left.contiguous(), right.contiguous(), tuple(energies.clamp(min=0).tolist()))


def residual(d: torch.Tensor, left: torch.Tensor, right: torch.Tensor, crew: Crew) -> float:
    """The sum of the squares of d - left · right, factors of any type, in fp64."""
    right = right.to(torch.float64)

    def of(rows: slice) -> float:
        rest = d[rows].to(torch.float64, copy=True)
        rest -= left[rows].to(torch.float64) @ right
        return float(torch.dot(rest.view(-1), rest.view(-1)))

    return sum(crew.ordered(of, slices(*d.shape)))


def slices(rows: int, columns: int) -> Iterator[slice]:
    """Runs of rows of about a block's size each."""
    height = max(1, _BLOCK // max(1, columns))
    return (slice(at, min(at + height, rows)) for at in range(0, rows, height))


class Tall:
    """A matrix with the longer side as its rows, multiplied by blocks of them."""

    def __init__(self, d: torch.Tensor, crew: Crew) -> None:
        self.turned = d.shape[0] < d.shape[1]
        self.height, self.width = max(d.shape), min(d.shape)
        self._d = d
        self._crew = crew

    def _block(self, rows: slice) -> torch.Tensor:
        """(some rows, short side) in fp64."""
        if self.turned:
            return self._d[:, rows].to(torch.float64).T
        return self._d[rows].to(torch.float64)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """T x, for x (short side, k)."""
        blocks = self._crew.ordered(lambda at: self._block(at) @ x, self._slices())
        return torch.cat(list(blocks))

    def gram(self) -> torch.Tensor:
        """T^T T, (short side, short side)."""

        def of(rows: slice) -> torch.Tensor:
            block = self._block(rows)
            return block.T @ block

        return self._sum(self._crew.ordered(of, self._slices()))

    def gram_times(self, x: torch.Tensor) -> torch.Tensor:
        """T^T T x, for x (short side, k), without the Gram matrix."""

        def of(rows: slice) -> torch.Tensor:
            block = self._block(rows)
            return block.T @ (block @ x)

        return self._sum(self._crew.ordered(of, self._slices()))

    def _slices(self) -> Iterator[slice]:
        return slices(self.height, self.width)

    @staticmethod
    def _sum(parts: Iterator[torch.Tensor]) -> torch.Tensor:
        total = next(parts)
        for part in parts:
            total += part
        return total


def _is_small(width: int, rank: int) -> bool:
    return width <= _SMALL or 4 * (rank + _SPARE) >= width


def _exact(tall: Tall, rank: int, energy: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The leading right singular vectors, and the squares of all singular values."""
    values, vectors = torch.linalg.eigh(tall.gram())  # ascending
    return vectors[:, -(rank + _SPARE) :].flip(1), values.flip(0)


def _krylov(tall: Tall, rank: int, energy: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by iteration; values of the directions returned alone.

    `basis` is orthonormal, (short side, k); `projected` is G in it, (k, k). Eigenvalues of that
    come close to G's from below, so that their sum says how much a step has gained.
    """
    width = rank + _SPARE
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(tall.width, width, generator=generator, dtype=torch.float64)
    new = torch.linalg.qr(start).Q
    basis, projected = new[:, :0], new.new_zeros(0, 0)
    found = 0.0
    for step in range(_STEPS):
        image = tall.gram_times(new)  # (short side, new ones)
        basis = torch.cat([basis, new], 1)
        projected = _bordered(projected, basis.T @ image)
        values, vectors = torch.linalg.eigh(projected)  # ascending
        before, found = found, float(values[-rank:].sum())
        left = max(0.0, energy - found)
        if step and (left <= _ROUNDING * energy or found - before <= _WORTH * left):
            break
        new = _beyond(basis, image, float(values[-1]))
        if not new.shape[1] or basis.shape[1] + new.shape[1] > tall.width:
            break
    return basis @ vectors[:, -width:].flip(1), values[-width:].flip(0)


def _bordered(inner: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A symmetric matrix (k, k) with more rows and columns, given as its new columns (k + w, w)."""
    k = len(inner)
    out = columns.new_zeros(len(columns), len(columns))
    out[:k, :k] = inner
    out[:, k:] = columns
    out[k:, :k] = columns[:k].T
    corner = columns[k:]
    out[k:, k:] = (corner + corner.T) / 2
    return out


def _beyond(basis: torch.Tensor, image: torch.Tensor, largest: float) -> torch.Tensor:
    """Orthonormal directions of `image` that are not in the basis yet; none where all are.

    Done twice, since the first time leaves rounding errors, relative to what was there before.
    """
    rest = image - basis @ (basis.T @ image)
    u, s, _ = torch.linalg.svd(rest, full_matrices=False)
    new: torch.Tensor = u[:, s > largest * 1e-13]
    if new.shape[1]:
        new = torch.linalg.qr(new - basis @ (basis.T @ new)).Q
    return new
