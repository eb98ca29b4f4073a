"""What becomes of each tensor that differs, as far as names and shapes decide it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from llamatools.errors import BadInput, UsageError
from llamatools.extraction.pairs import Pair
from llamatools.plan.build import DTYPES
from llamatools.text import listing, safe

BIAS = "bias"
"""In a list of modules to save: the biases of linear layers."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Extract:
    """What adapter is asked for."""

    rank: int
    dtype: str = "fp32"
    """Of the factors: one of DTYPES."""
    modules: Names | None = None
    """Modules that get factors, by the end of their path; None: every linear layer."""
    save_modules: Names | None = None
    """Of all else, what is saved in full; None: whatever differs."""
    max_error: float | None = None
    """The largest total error at which the adapter is still written."""

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"--rank {self.rank}: expected a positive whole number")
        if self.dtype not in DTYPES:
            problems.append(f"--dtype {safe(self.dtype)}: expected {', '.join(DTYPES)}")
        if self.max_error is not None and not (
            math.isfinite(self.max_error) and self.max_error >= 0
        ):
            problems.append(f"--max-error {self.max_error}: expected a number that is not negative")
        if problems:
            raise UsageError(problems)


class Use(Enum):
    """How a tensor's difference is stored."""

    FACTORS = "factors"
    BIAS = "bias"
    """As the bias of lora_B, which adds to the module's own."""
    FULL = "in full"
    OUT = "left out"


@dataclass(frozen=True)
class Task:
    pair: Pair
    use: Use


def listed(among: Sequence[str], module: str) -> bool:
    """Whether a list names a module: by its path, or by the end of it."""
    return any(module == name or module.endswith(f".{name}") for name in among)


def choose(pairs: Sequence[Pair], wishes: Extract, *, tied: bool) -> list[Task]:
    """A use for every tensor. `tied`: the head is the embedding in both models.

    UsageError where the wishes name what there is not, BadInput where they cannot be.
    """
    _check_names(pairs, wishes, tied=tied)
    uses: dict[str, Use] = {}
    for pair in pairs:
        if pair.leaf == "weight":
            uses[pair.native] = _of_weight(pair, wishes)
    # PEFT has no bias of lora_B for any module beside factors of the embedding.
    with_bias = not any(p.is_embedding and uses[p.native] is Use.FACTORS for p in pairs)
    for pair in pairs:
        if pair.leaf == "bias":
            has_factors = uses[f"{pair.module}.weight"] is Use.FACTORS
            wanted = wishes.save_modules is None or BIAS in wishes.save_modules
            uses[pair.native] = Use.BIAS if has_factors and wanted and with_bias else Use.OUT
    _check_vocabulary(pairs, uses)
    return [Task(pair, uses[pair.native]) for pair in pairs]


def _of_weight(pair: Pair, wishes: Extract) -> Use:
    if wishes.modules is not None and listed(wishes.modules, pair.module):
        return Use.FACTORS
    if pair.is_linear:
        return Use.FACTORS if wishes.modules is None else Use.OUT
    if wishes.save_modules is None or listed(wishes.save_modules, pair.module):
        return Use.FULL
    return Use.OUT


def _check_names(pairs: Sequence[Pair], wishes: Extract, *, tied: bool) -> None:
    """UsageError lists every name that names nothing, or the wrong thing."""
    matrices = {p.module for p in pairs if len(p.base.shape) == 2}
    savable = {p.module for p in pairs if p.leaf == "weight" and not p.is_linear}
    biases = any(p.leaf == "bias" for p in pairs)
    problems = [
        f"--modules {safe(name)}: {_unknown(name, tied, 'factors')}"
        for name in wishes.modules or ()
        if not any(listed((name,), m) for m in matrices)
    ]
    for name in wishes.save_modules or ():
        if name == BIAS and biases:
            continue
        if not any(listed((name,), m) for m in savable):
            problems.append(f"--save-modules {safe(name)}: {_unknown(name, tied, 'full')}")
        elif wishes.modules and any(
            listed((name,), m) and listed(wishes.modules, m) for m in savable
        ):
            problems.append(f"{safe(name)}: named in --modules and in --save-modules")
    if problems:
        ends = _ends(matrices)
        raise UsageError(
            problems,
            hint=f"--modules takes {listing(ends, len(ends))}; "
            f"--save-modules {listing(_ends(savable), 9)}{', bias' if biases else ''}",
        )


def _ends(modules: set[str]) -> list[str]:
    return sorted({m.rpartition(".")[2] for m in modules})


def _unknown(name: str, tied: bool, how: str) -> str:
    if tied and name == "lm_head":
        return "the head of both models is the embedding: name embed_tokens"
    kind = "weight matrix" if how == "factors" else "norm, embedding or head"
    return f"no {kind} of these models"


def _check_vocabulary(pairs: Sequence[Pair], uses: dict[str, Use]) -> None:
    """BadInput where rows are added to one of embedding and head, or factors were to add any."""
    grown = [p for p in pairs if p.is_vocabulary and p.grows]
    problems = [
        f"{p.module}: {p.tuned.rows:,} rows for the base's {p.base.rows:,}; factors add none"
        for p in grown
        if uses[p.native] is Use.FACTORS
    ]
    if problems:
        raise BadInput(problems, hint="leave it out of --modules: it is saved in full then")
    if len({uses[p.native] for p in grown}) > 1:
        saved, left = _sides(grown, lambda p: uses[p.native] is Use.FULL)
        raise BadInput(
            f"{saved} would be saved with {grown[0].tuned.rows:,} rows, and {left} stay as it is "
            f"with {grown[0].base.rows:,}",
            hint="name both in --save-modules, or neither",
        )


def _sides(pairs: Sequence[Pair], first: Callable[[Pair], bool]) -> tuple[str, str]:
    return (
        listing(p.module for p in pairs if first(p)),
        listing(p.module for p in pairs if not first(p)),
    )
