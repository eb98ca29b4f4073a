"""Two checkpoints held against each other: which tensors belong together, and what sets them apart.

Both are read in canonical form, so that layouts, files and types do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.canonical import tensors as canonical_tensors
from llamatools.checkpoint import Checkpoint
from llamatools.errors import BadInput
from llamatools.expr.nodes import Expr
from llamatools.layouts.hf import HF

_SIZES = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "attention_bias", "mlp_bias",
)  # fmt: skip
"""What must be equal. The vocabulary may grow, and a tied head may part from its embedding."""
_CONSTANTS = ("norm_eps", "rope_theta", "rope_scaling")
"""What a forward pass takes from the config, and no adapter can change."""
_VOCABULARY = (EMBEDDING, HEAD)


@dataclass(frozen=True)
class Pair:
    """One canonical tensor in both models."""

    name: str
    module: str
    """As Hugging Face names it, "model.layers.0.self_attn.q_proj"."""
    leaf: str
    """weight or bias"""
    base: Expr
    tuned: Expr

    @property
    def native(self) -> str:
        """The tensor's name in Hugging Face's layout."""
        return f"{self.module}.{self.leaf}"

    @property
    def is_embedding(self) -> bool:
        return self.name == EMBEDDING

    @property
    def is_vocabulary(self) -> bool:
        """A row for each token."""
        return self.name in _VOCABULARY

    @property
    def is_linear(self) -> bool:
        """The weight of a layer's linear module."""
        return len(self.base.shape) == 2 and not self.is_vocabulary

    @property
    def grows(self) -> bool:
        """The vocabulary has another size."""
        return self.base.shape != self.tuned.shape

    @property
    def nbytes(self) -> int:
        return self.base.nbytes + self.tuned.nbytes


def pair_up(base: Checkpoint, tuned: Checkpoint) -> list[Pair]:
    """Every tensor of the two models, in writing order. BadInput lists how they differ in kind.

    A tied head that is the embedding in both is not a tensor of its own; in one of them, it is
    what the other's own head is held against.
    """
    _check_kind(base, tuned)
    paths = {canonical: native for canonical, native, _ in HF.expand(base.spec.n_layers)}
    names = [*canonical_tensors(base.spec)]
    if HEAD not in names and not tuned.spec.tied:
        names.append(HEAD)
    pairs = []
    for name in names:
        if name == HEAD and base.spec.tied and tuned.spec.tied:
            continue
        module, _, leaf = paths[name].rpartition(".")
        pairs.append(Pair(name, module, leaf, _value(base, name), _value(tuned, name)))
    return pairs


def _value(source: Checkpoint, name: str) -> Expr:
    if name == HEAD and source.spec.tied:
        name = EMBEDDING
    return source.values[name]


def tied_in_both(base: Checkpoint, tuned: Checkpoint) -> bool:
    return base.spec.tied and tuned.spec.tied


def _check_kind(base: Checkpoint, tuned: Checkpoint) -> None:
    problems = [
        f"{what}: {a} in the base, {b} in the tuned model"
        for what, a, b in _differing(base, tuned, _SIZES)
    ]
    if problems:
        raise BadInput(
            problems,
            hint="an adapter changes the values of a model's tensors, not their shapes or number: "
            "was the model really made from this base?",
        )


def warnings(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """Differences that the adapter cannot hold, and that leave the tensors as they are."""
    return [
        f"warning: {what} is {a} in the base and {b} in the tuned model, which no adapter can hold"
        for what, a, b in _differing(base, tuned, _CONSTANTS)
    ]


def _differing(
    base: Checkpoint, tuned: Checkpoint, fields: tuple[str, ...]
) -> Iterator[tuple[str, object, object]]:
    for field in fields:
        a, b = getattr(base.spec, field), getattr(tuned.spec, field)
        if a != b:
            yield field, a, b
