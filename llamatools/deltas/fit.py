"""Whether a base and the model that a delta leads to are of one architecture."""

from __future__ import annotations

from llamatools.dtypes import F32, DType
from llamatools.errors import BadInput
from llamatools.spec import ModelSpec

_SIZES = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "attention_bias", "mlp_bias",
)  # fmt: skip
"""What shapes follow from."""

_CONSTANTS = ("norm_eps", "rope_theta", "rope_scaling", "context")
"""What the forward pass needs, and no tensor tells."""


def check_fit(base: ModelSpec, other: ModelSpec, *, word: str, may_tie: bool) -> None:
    """BadInput names every size that differs. The other model may have more rows.

    `may_tie`: it may also give up a head of its own, which then says nothing.
    """
    problems = [
        f"{what}: the base has {getattr(base, what)}, the {word} {getattr(other, what)}"
        for what in _SIZES
        if getattr(base, what) != getattr(other, what)
    ]
    if other.vocab_size < base.vocab_size:
        problems.append(
            f"vocab_size: the base has {base.vocab_size:,} rows, the {word} only "
            f"{other.vocab_size:,}"
        )
    if other.tied and not base.tied and not may_tie:
        problems.append(
            f"tied: the {word} has one matrix for embedding and head, the base has two, so that "
            "it is not said what becomes of the head"
        )
    if problems:
        raise BadInput(problems, hint=f"does the {word} belong to this base?")


def other_constants(base: ModelSpec, other: ModelSpec, *, word: str) -> list[str]:
    """Where the model will have other constants than its base."""
    return [
        f"{what} is the {word}'s, {_shown(getattr(other, what))}; "
        f"the base has {_shown(getattr(base, what))}"
        for what in _CONSTANTS
        if getattr(base, what) != getattr(other, what) and getattr(other, what) is not None
    ]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def other_type(base: DType, delta: DType) -> list[str]:
    """A delta in 16 bits was made from a base in the same 16 bits: of another, sums differ."""
    if delta in (base, F32):
        return []
    return [
        f"the delta is in {delta}, the base in {base}: was it made from a base in {delta}, "
        "the sums are not the publishers' to the last bit"
    ]
