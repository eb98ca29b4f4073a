"""Architectures from a params.json or config.json alone, for models of every kind.

What is said of dense models is read as it is for conversion. Llama 3.2 vision and Llama 4 have
readers of their own beside this one, for memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from llamatools.errors import BadInput
from llamatools.family.identify import identify
from llamatools.family.refuse import refuse_config, refuse_params
from llamatools.layouts import hf_config, meta_config
from llamatools.memory import llama4, llama4_params, mllama
from llamatools.memory.architecture import dense
from llamatools.memory.described import Described
from llamatools.memory.formats import of_config
from llamatools.memory.settle import settle
from llamatools.text import safe


def read_config_file(name: str, data: Mapping[str, object]) -> Described:
    """Whichever of the two the file is, by what it holds."""
    inner = meta_config.unwrap(data)
    if "hidden_size" in data or "model_type" in data or "text_config" in data:
        return read_hf(data)
    if "dim" in inner:
        return read_meta(inner)
    raise BadInput(
        f"{safe(name)}: neither a config.json (hidden_size) nor a params.json (dim)",
        hint="give a checkpoint's folder, its config.json or its params.json",
    )


def read_hf(data: Mapping[str, object]) -> Described:
    """A config.json. Quantised models are described by the sizes of what was quantised."""
    quantised = _quantisation(data)
    plain = {k: v for k, v in data.items() if k != "quantization_config"}
    kind = plain.get("model_type")
    reader = _KINDS.get(str(kind))
    if reader is None:
        refuse_config(plain)
        reader = _dense
    found = reader(plain)
    return replace(found, quantised=quantised)


def _quantisation(data: Mapping[str, object]) -> str | None:
    q = data.get("quantization_config")
    if not isinstance(q, dict):
        return None
    return safe(q.get("quant_method", "a method it does not name"), 40)


def _dense(data: Mapping[str, object]) -> Described:
    claims = hf_config.read_config(data)
    spec, notes, warnings = settle(claims)
    return Described(dense(spec), of_config(claims.dtype), notes, warnings)


def read_meta(data: Mapping[str, object]) -> Described:
    """A params.json."""
    quantised = bool(_QUANTISED & data.keys())
    sees = mllama.counts_crosses(data)
    plain = {k: v for k, v in data.items()
             if k not in _QUANTISED and not (sees and k.startswith("vision_"))}  # fmt: skip
    how = "Meta's own scheme" if quantised else None
    if "moe_args" in plain:
        return replace(llama4_params.read(plain), quantised=how)
    refuse_params(plain)
    spec, notes, warnings = settle(meta_config.read_params(plain))
    if sees:
        a = mllama.widen(spec, data)
    else:
        split = identify(spec, context_is_known=False).generation.split_vocabulary
        a = dense(spec, split_vocabulary=split)
    return Described(a, of_config(None), notes, warnings, how)


_QUANTISED = {"quantization_args", "lora_args"}

_KINDS: Mapping[str, Callable[[Mapping[str, object]], Described]] = {
    "mllama": mllama.read,
    "mllama_text_model": mllama.read,
    "llama4": llama4.read,
    "llama4_text": llama4.read,
}
"""model_type -> who reads the rest."""
