"""torchtune's adapters: adapter_model.pt, or adapter_N.pt of epoch N before torchtune 0.5.

    layers.N.attn.{q,k,v,output}_proj, layers.N.mlp.{w1,w2,w3} or output, and after that
        .lora_a.weight (r, in)    .lora_b.weight (out, r)    .magnitude (out,): with DoRA

Rows of queries and keys are in Meta's order: torchtune turns those of Hugging Face's checkpoints
as it loads them (hf_to_tune in torchtune/models/convert_weights.py), and rotates neighbours.

Rank and alpha are in adapter_config.json alone, which only its HF checkpointer writes, beside an
export under PEFT's names. That export turns lora_b back and leaves the magnitudes as they are
(tune_to_peft_adapter_weights), so that the file of torchtune's own is the one to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from llamatools.adapters import config as peft_config
from llamatools.adapters.config import Config, read_config
from llamatools.adapters.part import Adapter, Part
from llamatools.adapters.peft import read_parts
from llamatools.containers.base import Container, StoredTensor
from llamatools.errors import BadInput, Unsupported
from llamatools.layouts.table import RowOrder
from llamatools.opening.folder import Folder
from llamatools.text import listing, safe

_OWN, _EPOCHS = "adapter_model.pt", "adapter_[0-9]*.pt"
FILES = (_OWN, _EPOCHS)
_EXPORTS = ("adapter_model.safetensors", "adapter_model.bin")

# torchtune's name -> Hugging Face's, and the order of the rows.
_MODULES = {
    "attn.q_proj": ("self_attn.q_proj", RowOrder.PAIRS_Q),
    "attn.k_proj": ("self_attn.k_proj", RowOrder.PAIRS_KV),
    "attn.v_proj": ("self_attn.v_proj", RowOrder.SAME),
    "attn.output_proj": ("self_attn.o_proj", RowOrder.SAME),
    "mlp.w1": ("mlp.gate_proj", RowOrder.SAME),
    "mlp.w2": ("mlp.down_proj", RowOrder.SAME),
    "mlp.w3": ("mlp.up_proj", RowOrder.SAME),
}
_HEAD = ("output", "lm_head")
_ROLES = {
    "lora_a.weight": "lora_A.weight",
    "lora_b.weight": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
_NAME = re.compile(
    rf"(?:layers\.(?P<layer>0|[1-9][0-9]{{0,3}})\.(?P<inner>{'|'.join(map(re.escape, _MODULES))})"
    rf"|{_HEAD[0]})\.(?P<role>{'|'.join(map(re.escape, _ROLES))})"
)
# target_modules are torchtune's names until its HF checkpointer has written them.
_TARGETS = {
    own.rpartition(".")[2]: name.rpartition(".")[2] for own, (name, _) in _MODULES.items()
} | dict([_HEAD])

_HINT = (
    "write adapter_config.json beside it, with the recipe's lora_rank and lora_alpha: "
    '{"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", ...]}'
)


def recognise(folder: Folder) -> bool:
    """Whether a folder holds an adapter of torchtune's own, or the user gave one."""
    own = [n for n in sorted(folder.names) if any(fnmatchcase(n, p) for p in FILES)]
    if folder.chosen is not None or _OWN in own:
        return (folder.chosen or _OWN) in own
    if not own or folder.names & set(_EXPORTS):
        return False  # before 0.5, the export is of the last epoch
    if len(own) > 1:
        raise BadInput(
            f"{safe(folder.path)}: adapters of several epochs: {listing(own)}",
            hint="give the one file you mean",
        )
    return True


def read(folder: Folder, container: Container) -> Adapter:
    """The parts, whose rows are in Meta's order yet."""
    found, unknown = _translate(container.tensors.values())
    where = safe(folder.path / peft_config.NAME)
    if peft_config.NAME not in folder.names:
        raise BadInput(
            f"{safe(folder.path)}: no {peft_config.NAME}: rank and alpha, which scale the factors, "
            f"are not in {safe(container.file.name)}",
            hint=_HINT,
        )
    config = _read_config(folder.json(peft_config.NAME), where)
    if unknown:
        raise BadInput(
            f"tensors that torchtune's adapters of a Llama do not have: {listing(unknown)}",
            hint=f"is {safe(container.file.name)} torchtune's? If not, give the file you mean",
        )
    factors = {t.module for t in found if t.role != "magnitude"}
    lengths = {t.module for t in found if t.role == "magnitude"}
    if lengths and factors - lengths:
        raise BadInput(
            f"modules with factors and no magnitude, unlike others: "
            f"{listing(sorted(factors - lengths))}",
            hint="was the adapter saved whole?",
        )
    config = replace(config, dora=config.dora or bool(lengths))
    parts = read_parts((t.tensor for t in found), config)
    return Adapter(
        name=folder.path.resolve().name,
        format="torchtune",
        kind="DoRA" if config.dora else "LoRA",
        parts=_ordered(parts, {t.module: t.order for t in found}),
        file=container.file,
        config=config,
        base_model=config.base_model,
    )


@dataclass(frozen=True)
class _Translated:
    """A tensor under the name that PEFT would give it."""

    tensor: StoredTensor
    module: str
    role: str
    order: RowOrder


def _translate(tensors: Iterable[StoredTensor]) -> tuple[list[_Translated], list[str]]:
    """All tensors in PEFT's terms, and the names of those that have no such."""
    found, unknown = [], []
    for t in tensors:
        match = _NAME.fullmatch(t.name)
        if match is None:
            unknown.append(t.name)
            continue
        module, order = _HEAD[1], RowOrder.SAME
        if match["inner"]:
            name, order = _MODULES[match["inner"]]
            module = f"model.layers.{match['layer']}.{name}"
        named = replace(t, name=f"{module}.{_ROLES[match['role']]}")
        found.append(_Translated(named, module, match["role"], order))
    return found, unknown


def _ordered(parts: Mapping[str, Part], orders: Mapping[str, RowOrder]) -> dict[str, Part]:
    return {m: replace(part, order=orders[m]) for m, part in parts.items()}


def _read_config(data: Mapping[str, object], where: str) -> Config:
    """adapter_config.json: PEFT's form, of which torchtune knows but a little."""
    config = read_config(data, where)
    if data.get("lora_alpha") is None:
        raise BadInput(f"{where}: lora_alpha is missing, which scales the factors", hint=_HINT)
    plain = read_config({k: data[k] for k in ("peft_type", "r", "lora_alpha")}, where)
    said = replace(config, dora=False, target=plain.target, base_model=None, task=None)
    if said != plain:
        raise Unsupported(
            f"{where}: says more than torchtune's adapters know, beside peft_type, r, lora_alpha "
            "and target_modules",
            hint=f"does it belong to {_OWN}? If not, give the file that it belongs to",
        )
    if not isinstance(config.target, tuple):
        return config
    return replace(config, target=tuple(_TARGETS.get(name, name) for name in config.target))
