"""Names of tensors in PEFT's adapter files, old forms and new.

    [base_model.model.]MODULE.lora_A[.NAME].weight                 (r, in)
    [base_model.model.]MODULE.lora_B[.NAME].weight                 (out, r), and .bias (out,)
    [base_model.model.]MODULE.lora_embedding_A[.NAME]              (r, vocabulary)
    [base_model.model.]MODULE.lora_embedding_B[.NAME]              (dim, r)
    [base_model.model.]MODULE.lora_magnitude_vector[.NAME][.weight]
    [base_model.model.]MODULE[.base_layer].weight | .bias          in place of the base's own
    [base_model.model.]MODULE.modules_to_save[.NAME[.MODULE IN IT]].weight | .bias
    [base_model.model.]MODULE.token_adapter.trainable_tokens_delta[.NAME]   (tokens, dim)
    [base_model.model.]MODULE.original_module...                   the base's own: ignored

NAME is the adapter's, "default" mostly; files written by PEFT itself leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY_MODULES = ("embed_tokens", "lm_head")

A, B, B_BIAS = "A", "B", "B bias"
EMBEDDING_A, EMBEDDING_B = "embedding A", "embedding B"
MAGNITUDE, TOKENS = "magnitude", "tokens"
WEIGHT, BIAS, IGNORED = "weight", "bias", "ignored"

# (what follows the module, last part) -> role. None: the name ends with the marker.
_ROLES = {
    ("lora_A", "weight"): A,
    ("lora_B", "weight"): B,
    ("lora_B", "bias"): B_BIAS,
    ("lora_embedding_A", None): EMBEDDING_A,
    ("lora_embedding_B", None): EMBEDDING_B,
    ("lora_magnitude_vector", None): MAGNITUDE,
    ("lora_magnitude_vector", "weight"): MAGNITUDE,
    ("base_layer", "weight"): WEIGHT,
    ("base_layer", "bias"): BIAS,
    ("modules_to_save", "weight"): WEIGHT,
    ("modules_to_save", "bias"): BIAS,
    ("trainable_tokens_delta", None): TOKENS,
    ("trainable_tokens_original", None): IGNORED,
    ("original_module", "weight"): IGNORED,
    ("original_module", "bias"): IGNORED,
    (None, "weight"): WEIGHT,
    (None, "bias"): BIAS,
}
_MARKERS = {marker for marker, _ in _ROLES if marker}
_LEAVES = ("weight", "bias")
_PREFIXES = ("base_model.model.", "base_model.")
# Wrappers around the module; the marker that says what the tensor is comes after them.
_WRAPPERS = ("token_adapter",)


@dataclass(frozen=True)
class AdapterName:
    """A tensor's name, taken apart."""

    module: str
    role: str
    adapter: str | None
    """The adapter's own name, where the tensor's holds it."""


def parse_name(name: str) -> AdapterName | None:
    """What a tensor of an adapter is; None where the name is of no known form."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    words = name[len(prefix) :].split(".")
    leaf = words.pop() if words[-1] in _LEAVES else None
    at = next((i for i, w in enumerate(words) if w in _MARKERS), None)
    if at is None:
        marker, inner = None, []
        module = words
    else:
        marker, inner, module = words[at], words[at + 1 :], words[:at]
    if marker == "modules_to_save":  # a block that is saved whole has modules in it
        module, inner = module + inner[1:], inner[:1]
    elif marker == "original_module":
        inner = []
    role = _ROLES.get((marker, leaf))
    module = [w for w in module if w not in _WRAPPERS]
    if role is None or len(inner) > 1 or not module:
        return None
    return AdapterName(".".join(module), role, inner[0] if inner else None)
