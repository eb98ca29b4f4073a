"""The canonical form of a Llama: HF orientation, unsharded, under our own names.

This table is the one place that says which tensors a Llama has and what shape each takes.
Layouts map their native names onto it; fingerprints are computed over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llamatools.spec import ModelSpec


def _always(spec: ModelSpec) -> bool:
    return True


def _attention_bias(spec: ModelSpec) -> bool:
    return spec.attention_bias


def _mlp_bias(spec: ModelSpec) -> bool:
    return spec.mlp_bias


def _untied(spec: ModelSpec) -> bool:
    return not spec.tied


@dataclass(frozen=True)
class CanonicalTensor:
    """One kind of tensor; `{i}` in the template stands for the layer."""

    template: str
    dims: tuple[str, ...]
    """Names of ModelSpec's sizes, outermost first."""
    group: str
    """What it counts as in a table of parameters."""
    present: Callable[[ModelSpec], bool] = _always

    def shape(self, spec: ModelSpec) -> tuple[int, ...]:
        return tuple(getattr(spec, d) for d in self.dims)


EMBEDDING = "embedding.weight"
HEAD = "head.weight"

_ATTENTION = "layers.{i}.attention."
_MLP = "layers.{i}.mlp."

TENSORS = (
    CanonicalTensor(EMBEDDING, ("vocab_size", "dim"), "embedding"),
    CanonicalTensor(_ATTENTION + "norm.weight", ("dim",), "norm"),
    CanonicalTensor(_ATTENTION + "q.weight", ("q_dim", "dim"), "attention"),
    CanonicalTensor(_ATTENTION + "q.bias", ("q_dim",), "attention", _attention_bias),
    CanonicalTensor(_ATTENTION + "k.weight", ("kv_dim", "dim"), "attention"),
    CanonicalTensor(_ATTENTION + "k.bias", ("kv_dim",), "attention", _attention_bias),
    CanonicalTensor(_ATTENTION + "v.weight", ("kv_dim", "dim"), "attention"),
    CanonicalTensor(_ATTENTION + "v.bias", ("kv_dim",), "attention", _attention_bias),
    CanonicalTensor(_ATTENTION + "o.weight", ("dim", "q_dim"), "attention"),
    CanonicalTensor(_ATTENTION + "o.bias", ("dim",), "attention", _attention_bias),
    CanonicalTensor(_MLP + "norm.weight", ("dim",), "norm"),
    CanonicalTensor(_MLP + "gate.weight", ("ffn_dim", "dim"), "mlp"),
    CanonicalTensor(_MLP + "gate.bias", ("ffn_dim",), "mlp", _mlp_bias),
    CanonicalTensor(_MLP + "up.weight", ("ffn_dim", "dim"), "mlp"),
    CanonicalTensor(_MLP + "up.bias", ("ffn_dim",), "mlp", _mlp_bias),
    CanonicalTensor(_MLP + "down.weight", ("dim", "ffn_dim"), "mlp"),
    CanonicalTensor(_MLP + "down.bias", ("dim",), "mlp", _mlp_bias),
    CanonicalTensor("norm.weight", ("dim",), "norm"),
    CanonicalTensor(HEAD, ("vocab_size", "dim"), "head", _untied),
)

BY_TEMPLATE = {t.template: t for t in TENSORS}


def expand(template: str, n_layers: int) -> list[str]:
    """The names a template stands for: itself, or one per layer."""
    if "{i}" not in template:
        return [template]
    return [template.replace("{i}", str(i)) for i in range(n_layers)]


def tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every canonical name of the model and its shape, in the order files are written.

    That order is the forward pass's: embedding, layer after layer, final norm, head.
    """
    present = [t for t in TENSORS if t.present(spec)]
    layered = [t for t in present if "{i}" in t.template]
    out = {EMBEDDING: BY_TEMPLATE[EMBEDDING].shape(spec)}
    for i in range(spec.n_layers):
        out.update({t.template.replace("{i}", str(i)): t.shape(spec) for t in layered})
    out.update({t.template: t.shape(spec) for t in present if t not in layered})
    return out
