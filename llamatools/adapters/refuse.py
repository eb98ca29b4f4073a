"""Adapters that are recognised and not merged, each with its name, the reason and a way on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.errors import Unsupported
from llamatools.text import safe

_RUNTIME = "it changes what the model does with each input, which no single weight can"
_LORA_ONLY = "only LoRA and its variants that add up to one weight are merged"


@dataclass(frozen=True)
class Mark:
    """A key of the config that, where it is set, gives a kind of adapter away."""

    key: str
    what: str
    hint: str


_MARKS = (
    Mark("alora_invocation_tokens", "an activated LoRA (aLoRA)", _RUNTIME),
    Mark("arrow_config", "an Arrow router of several adapters", _RUNTIME),
    Mark("megatron_config", "a Megatron adapter", "export it to a plain LoRA first"),
    Mark(
        "layer_replication",
        "an adapter of a model with repeated layers",
        "write the model with its layers repeated first, and train or rename the adapter for it",
    ),
    Mark("use_qalora", "a QALoRA adapter", "it belongs to one quantisation of its base"),
    Mark("kasa_config", "a KaSA adapter", "it replaces its base by a truncated one"),
    Mark("monteclora_config", "a MonteCLoRA adapter", _RUNTIME),
    Mark("target_parameters", "LoRA of bare parameters", "Llama models have none to target"),
)

_MUTATING = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}
"""Ways to begin that take a part out of the base's weights and put it into the adapter."""

_HARMLESS = ("gaussian", "eva", "orthogonal", "mica")


def refuse_config(config: Mapping[str, object], where: str) -> None:
    """Raise Unsupported where an adapter_config.json names a kind that cannot be merged."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise Unsupported(
            f"{where}: peft_type {safe(kind) if kind is not None else 'is missing'}: not LoRA",
            hint=_LORA_ONLY,
        )
    for mark in _MARKS:
        if config.get(mark.key):
            raise Unsupported(f"{where}: {mark.key}: {mark.what} cannot be merged", hint=mark.hint)
    _refuse_init(config.get("init_lora_weights", True), where)


def _refuse_init(init: object, where: str) -> None:
    if isinstance(init, bool) or init is None or init in _HARMLESS:
        return
    word = str(init).lower()
    known = [name for start, name in _MUTATING.items() if word.startswith(start)]
    if not known:
        raise Unsupported(
            f"{where}: init_lora_weights {safe(init)}: not known, so it is not known either "
            "whether the adapter belongs to its base as released"
        )
    raise Unsupported(
        f"{where}: an unconverted {known[0]} adapter: it was trained on altered base weights, so "
        "that merging it into the base as released gives another model",
        hint="save it again with PEFT's path_initial_model_for_weight_conversion; or, if BASE is "
        'the altered model itself, set "init_lora_weights": true in adapter_config.json',
    )
