"""What usually makes a forward pass wrong in one way or another.

A table: at which point it first shows, at which positions, how much; and what that means. At
position 0 attention sees one token: its weight is 1 whatever q, k and positions are, so that what
is wrong with these alone leaves position 0 right, and what is wrong with v, o or a norm does not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from llamatools.spec import ModelSpec
from llamatools.verifying.locate import LARGE, Place

_HALVES = ("attention", "mlp")
_DISTANCE = ("not-first", "grows", "far")
_NO_FAR = ("not-first", "grows")


@dataclass(frozen=True)
class Cause:
    """A row: where `text` is to be thought of."""

    key: str
    text: str
    kinds: tuple[str, ...]
    patterns: tuple[str, ...]
    sizes: tuple[str, ...] = ("large",)
    first_layer: bool = False
    """It shows in layer 0, or not at all."""


CAUSES = (
    Cause(
        "scaling", "rope scaling that is missing, or has another factor",
        ("attention",), ("far", "grows"), ("large", "small"), first_layer=True,
    ),
    Cause(
        "theta", "another rope theta",
        ("attention",), ("grows", "not-first"), ("large", "small"), first_layer=True,
    ),
    Cause(
        "permutation", "rows of q or k in the order of the other layout (rotary pairs not "
        "permuted, permuted twice, or by the wrong count of heads)",
        ("attention",), ("not-first", "grows"),
    ),
    Cause("kv-heads", "key heads in another order", ("attention",), ("not-first", "grows")),
    Cause("qk", "q and k swapped", ("attention",), ("not-first", "grows")),
    Cause(
        "eps", "another eps of the norms",
        ("attention",), ("all",), ("small",), first_layer=True,
    ),
    Cause(
        "lora", "a low-rank update (LoRA, a delta) that is missing, or there twice",
        (*_HALVES, "embedding", "head"), ("all", "tokens", "some", *_NO_FAR), ("small",),
    ),
    Cause(
        "elements", "single elements or rows that are damaged",
        (*_HALVES, "embedding", "norm", "head"), ("all", "some", "tokens", *_NO_FAR), ("small",),
    ),
    Cause("rounding", "a cast, or quantisation", (*_HALVES, "embedding"), ("all",), ("small",)),
    Cause("norms", "the two norms of a layer swapped", ("attention",), ("all",)),
    Cause(
        "v-heads", "key-value heads in another order, or repeated wrongly",
        ("attention",), ("all",),
    ),
    Cause("gate-up", "gate and up swapped", ("mlp",), ("all",)),
    Cause(
        "shards", "shards joined in another order or along another axis",
        (*_HALVES, "embedding", "head"), ("all", "tokens", *_NO_FAR),
    ),
    Cause(
        "part", "part of a matrix zeroed or lost",
        _HALVES, ("all", *_NO_FAR), ("large", "small"),
    ),
    Cause("layers", "layers in another order, dropped or repeated", _HALVES, ("all",)),
    Cause("bias", "a bias that is missing", _HALVES, ("all", *_NO_FAR), ("large", "small")),
    Cause(
        "vocabulary", "a vocabulary that is shifted or in another order",
        ("embedding", "head"), ("all", "tokens"),
    ),
    Cause(
        "rows", "rows of some tokens: a vocabulary that was resized, padded, or trained in part",
        ("embedding",), ("tokens",), ("large", "small"),
    ),
    Cause("exchanged", "embedding and head exchanged", ("embedding",), ("all",)),
    Cause("tied", "a head that was tied to the embedding by mistake", ("head",), ("all",)),
    Cause(
        "final-norm", "the final norm replaced by another, or another eps",
        ("norm",), ("all",), ("large", "small"),
    ),
    Cause(
        "positions", "rows of q or k in another order, or other rope settings",
        ("logits",), _DISTANCE, ("large", "small"),
    ),
    Cause("anything", "another model", ("logits",), ("all",)),
    Cause(
        "little", "another eps, a lost update, a cast, or few damaged elements",
        ("logits",), ("all", "some"), ("small",),
    ),
)  # fmt: skip


def causes(place: Place, differences: list[str], shift: int, *, known: bool = False) -> list[Cause]:
    """What may be the reason, the likeliest first.

    A setting that differs is named first, at whichever positions it shows: the table knows what is
    usual, and little of a setting may show like another's. Where the reference's settings are
    `known`, one that is the same in both is named last.
    """
    found = []
    if shift:
        by = f"logits agree once they are moved by {shift:+d}: the head's rows are shifted"
        found.append(Cause("vocabulary", by, (), ()))
    if place.error is None:
        text = "NaN or infinity: in the weights, or where the type of the run has no room"
        return [Cause("nan", text, (), ())]
    size = "large" if place.error >= LARGE else "small"
    told = {_TOLD[name] for name in _TOLD if any(d.startswith(name) for d in differences)}
    found += [c for c in CAUSES if c.key in told and place.kind in c.kinds]
    equal = _RUN_WITH - told if known else frozenset()
    usual = [
        c
        for c in CAUSES
        if c.key not in told
        and place.kind in c.kinds
        and place.positions.pattern in c.patterns
        and size in c.sizes
        and not (c.first_layer and place.layer)
    ]
    return found + sorted(usual, key=lambda c: c.key in equal)


_TOLD = {
    "norm_eps": "eps", "rope_theta": "theta", "rope_scaling": "scaling", "tied": "tied",
    "n_layers": "layers", "attention_bias": "bias", "mlp_bias": "bias",
}  # fmt: skip
"""Settings of a model, and the cause that a difference in them is."""

_RUN_WITH = frozenset({"eps", "theta", "scaling"})
"""Settings that no weight holds: where both agree on them, both were run with them."""


def config_differences(found: ModelSpec, golden: ModelSpec | None) -> list[str]:
    """Settings that differ from the reference's; the context decides no logits."""
    if golden is None:
        return []
    return [
        f"{f.name}: {_shown(getattr(found, f.name))}, "
        f"the reference has {_shown(getattr(golden, f.name))}"
        for f in fields(ModelSpec)
        if f.name != "context" and getattr(found, f.name) != getattr(golden, f.name)
    ]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else f"{value:,}"
    scaling = getattr(value, "kind", None)
    return f"{scaling} x{getattr(value, 'factor', 0):g}" if scaling else str(value)
