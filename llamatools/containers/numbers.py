"""Numbers and shapes from files, accepted only where they can be what they claim."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeGuard

MAX_DIMS = 64
"""More than any library handles; bounds the product of a shape."""

_LIMIT = 2**63


def is_size(value: object) -> TypeGuard[int]:
    """A count, offset or stride: an int (True is one in Python, and none here), 0 to 2^63-1."""
    return type(value) is int and 0 <= value < _LIMIT


def is_strides(value: object) -> TypeGuard[Sequence[int]]:
    """A sequence of at most 64 sizes."""
    return (
        isinstance(value, (list, tuple))
        and len(value) <= MAX_DIMS
        and all(is_size(n) for n in value)
    )


def is_shape(value: object) -> TypeGuard[Sequence[int]]:
    """As is_strides, and small enough for row-major strides to be sizes too."""
    return is_strides(value) and prod(max(n, 1) for n in value) < _LIMIT


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a tensor without gaps whose last axis runs fastest."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def read_cost(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements pass by where a tensor is read in lines along its densest axis.

    No more than its extent, unless its lines overlap or lie between each other.
    """
    if 0 in shape:
        return 0
    axes = [(n, s) for n, s in zip(shape, strides, strict=True) if n > 1]
    length, step = min(axes, key=lambda axis: axis[1], default=(1, 0))
    return prod(shape) // length * (1 + (length - 1) * step)


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie from the first to the last one used, both included; 0 if none."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
