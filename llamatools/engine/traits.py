"""Everything that tells one plan from another, in words: down to each number of its expressions.

What an expression says of itself is for people, and leaves out what is long: the digits of a
factor, the rows that are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum

import numpy as np
from blake3 import blake3

from llamatools.containers.base import InputFile


def traits(value: object) -> Iterator[str]:
    """The same words for equal values in every process; files are known by name."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | Enum():
            yield f"{type(value).__name__} {value!r}"
        case InputFile():
            yield f"file {value.name!r}"
        case np.ndarray():
            digest = blake3(np.ascontiguousarray(value).tobytes()).hexdigest()
            yield f"array {value.dtype} {value.shape} {digest}"
        case np.generic():
            yield f"number {value.dtype} {value!r}"
        case Mapping():
            yield f"mapping {len(value)}"
            for key, entry in value.items():
                yield from traits(key)
                yield from traits(entry)
        case Set():
            yield f"set {len(value)}"
            yield from sorted(word for entry in value for word in traits(entry))
        case Sequence():
            yield f"sequence {len(value)}"
            for entry in value:
                yield from traits(entry)
        case _ if is_dataclass(value):
            yield f"{type(value).__name__}"
            for field in fields(value):
                yield from traits(getattr(value, field.name))
        case _:
            raise TypeError(f"a plan with a {type(value).__name__}, which nobody can compare")
