"""mlx-lm's adapters: adapters.safetensors (NNNNNNN_adapters.safetensors on the way) and
adapter_config.json, which holds all that training was told.

    MODULE.lora_a (in, r)    MODULE.lora_b (r, out)    MODULE.m (out,): with DoRA
    model.embed_tokens       lora_a (vocabulary, r), lora_b (r, dim), m (vocabulary,)
    MODULE.weight, .bias     with fine_tune_type full: in place of the base's

Modules are Hugging Face's, rows in its order. What is added is scale · a·b, and scale is not
divided by the rank (mlx_lm/tuner/lora.py); until 0.14.1 it was multiplied by alpha / rank.
A quantised base is no obstacle: its factors are added to the base given here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from llamatools.adapters.config import NAME, Config
from llamatools.adapters.mlx_settings import (
    DORA,
    EXAMPLE,
    FULL,
    KINDS,
    LORA,
    Settings,
    read_settings,
)
from llamatools.adapters.part import Adapter, LowRankPart, Part
from llamatools.adapters.peft import read_parts, transposed
from llamatools.containers.base import Container, StoredTensor
from llamatools.errors import BadInput, Unsupported
from llamatools.expr.held import Held, Transposed
from llamatools.expr.nodes import Expr, Read
from llamatools.opening.folder import Folder
from llamatools.text import count, listing, safe

FILES = ("adapters.safetensors",)
_OLD_FILE = "adapters.npz"
_MARKS = {"fine_tune_type", "lora_parameters", "lora_layers"}

_LEAVES = {
    LORA: ("lora_a", "lora_b"),
    DORA: ("lora_a", "lora_b", "m"),
    FULL: ("weight", "bias"),
}
_EMBEDDING = "embed_tokens"


def recognise(folder: Folder) -> bool:
    """Whether a folder holds an adapter of mlx-lm's."""
    if NAME in folder.names:
        keys = folder.json(NAME).keys()
        return bool(keys & _MARKS) and "peft_type" not in keys
    if _OLD_FILE in folder.names and folder.chosen in (None, _OLD_FILE):
        raise Unsupported(
            f"{safe(folder.path)}: {_OLD_FILE}, as mlx-lm wrote it until 0.5: the factors without "
            "their scale",
            hint="save it again with mx.save_safetensors as adapters.safetensors, and write "
            f"{NAME} beside it: {EXAMPLE}",
        )
    return FILES[0] in folder.names and folder.chosen in (None, *FILES)


def read(folder: Folder, container: Container) -> Adapter:
    """The parts; of a full fine-tune, the weights themselves."""
    if NAME not in folder.names:
        raise BadInput(
            f"{safe(folder.path)}: no {NAME}: the scale of the factors is in no other file",
            hint=f"write it beside {FILES[0]}: {EXAMPLE}",
        )
    settings = read_settings(folder.json(NAME), safe(folder.path / NAME))
    tensors = {t.name: t for t in container.tensors.values()}
    allowed = _LEAVES[settings.kind]
    modules: dict[str, dict[str, StoredTensor]] = {}
    unknown = []
    for name, t in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in allowed and module:
            modules.setdefault(module, {})[leaf] = t
        else:
            unknown.append(name)
    problems = _lacking(modules, settings)
    if unknown:
        problems.insert(
            0, f"tensors that fine_tune_type {settings.kind} does not have: {listing(unknown)}"
        )
    if problems:
        raise BadInput(problems, hint="was the adapter saved whole, and with this config?")
    return Adapter(
        name=folder.path.resolve().name,
        format="mlx-lm",
        kind=KINDS[settings.kind],
        parts=_weights(modules) if settings.kind == FULL else _factors(modules, settings),
        file=container.file,
        # In mlx the head of a tied model is the embedding, with whatever was added to it.
        keeps_tied=True,
        base_model=settings.base,
    )


Modules = Mapping[str, Mapping[str, StoredTensor]]
"""Module -> last word of the name -> tensor."""


def _weights(modules: Modules) -> dict[str, Part]:
    return {
        m: Part(m, weight=_read(tensors, "weight"), bias=_read(tensors, "bias"))
        for m, tensors in modules.items()
    }


def _read(tensors: Mapping[str, StoredTensor], leaf: str) -> Expr | None:
    return Read(tensors[leaf]) if leaf in tensors else None


def _factors(modules: Modules, settings: Settings) -> dict[str, Part]:
    """Checked by the reader of PEFT's, which has the same two factors the other way round."""
    config = Config(settings.where, settings.rank, 1.0, dora=settings.kind == DORA)
    parts = read_parts(_in_peft(modules), config)
    return {m: _unturned(part, settings.scale) for m, part in parts.items()}


def _in_peft(modules: Modules) -> Iterable[StoredTensor]:
    for module, tensors in modules.items():
        # An embedding's factors lie as those of a linear layer that has as many outputs.
        embeds = module.rpartition(".")[2] == _EMBEDDING
        left, right = ("lora_a", "lora_b") if embeds else ("lora_b", "lora_a")
        names = {left: "lora_B.weight", right: "lora_A.weight", "m": "lora_magnitude_vector"}
        for leaf, t in tensors.items():
            turned = t if embeds or leaf == "m" else transposed(t)
            yield replace(turned, name=f"{module}.{names[leaf]}")


def _unturned(part: Part, scale: float) -> Part:
    """A part with its own scale, whose factors are read as they lie."""
    low = part.low_rank
    assert low is not None
    left, right = _as_stored(low.left), _as_stored(low.right)
    return replace(part, low_rank=LowRankPart(left, right, scale))


def _as_stored(x: Expr) -> Expr:
    if not isinstance(x, Read) or x.tensor.contiguous:
        return x
    return Held(Transposed(Read(transposed(x.tensor))))


_LINEAR = frozenset({
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
})  # fmt: skip
_NORMS = frozenset({"input_layernorm", "post_attention_layernorm"})
_IN_LAYER = re.compile(
    r"model\.layers\.(?P<layer>0|[1-9][0-9]{0,8})"
    rf"(?P<inner>\.(?:{'|'.join(map(re.escape, sorted(_LINEAR | _NORMS)))})\.\w+)",
    re.ASCII,
)


def _lacking(modules: Modules, settings: Settings) -> list[str]:
    """What the file should hold besides: mlx-lm trains the same modules in each of the last layers.

    `keys` may name modules that a Llama does not have, and mlx-lm then passes over them.
    """
    found = {f"{m}.{leaf}" for m, tensors in modules.items() for leaf in tensors}
    wanted, inner = set(found), {f".{key}." for key in _LINEAR & set(settings.keys)}
    if settings.kind != FULL:
        leaves = _LEAVES[settings.kind]
        wanted |= {f"{m}.{leaf}" for m in modules for leaf in leaves}
        inner = {f"{key}{leaf}" for key in inner for leaf in leaves}
    matches = [m for m in map(_IN_LAYER.fullmatch, wanted) if m]
    layers = {int(m["layer"]) for m in matches}
    inner |= {m["inner"] for m in matches}
    wanted |= {f"model.layers.{i}{name}" for i in layers for name in inner}
    problems = []
    if missing := sorted(wanted - found):
        problems.append(f"lacks {count(len(missing), 'tensor')}: {listing(missing)}")
    if layers and not _is_run(layers, settings.layers):
        problems.append(
            f"holds {count(len(layers), 'layer')}, {min(layers)} to {max(layers)}, but "
            f"{settings.where} says num_layers {settings.layers}"
        )
    return problems


def _is_run(layers: Collection[int], wanted: int | None) -> bool:
    """Whether layers can be the last `wanted` of a model. 0 and -1 want all, as too many do."""
    first, last, number = min(layers), max(layers), len(layers)
    if last - first + 1 != number:
        return False
    if wanted is None:
        return True
    return first == 0 if wanted <= 0 else number == wanted or (first == 0 and number < wanted)
