"""config.json and generation_config.json: read into claims, written from a spec.

Rope settings are written in the form of transformers 4 (rope_theta, rope_scaling, torch_dtype),
which 4.x and 5.x both read; both forms are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

from llamatools.claims import Claims
from llamatools.dtypes import DType
from llamatools.errors import BadInput
from llamatools.jsonfields import Fields
from llamatools.spec import ModelSpec, RopeScaling

NAME = "config.json"
GENERATION_NAME = "generation_config.json"

# What transformers assumes where a Llama config is silent.
_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 1e4}
_DEFAULT_CONTEXT = 2048

_ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def read_config(data: Mapping[str, object]) -> Claims:
    """Claims of a config.json; BadInput lists every value that makes no sense."""
    f = Fields(data, NAME)
    rope = Fields(f.mapping("rope_parameters") or {}, f"{NAME}: rope_parameters")
    dim = f.count("hidden_size")
    n_layers = f.count("num_hidden_layers")
    n_heads = f.count("num_attention_heads")
    f.require(hidden_size=dim, num_hidden_layers=n_layers, num_attention_heads=n_heads)
    scaled = f.mapping("rope_scaling")
    old = Fields(scaled or {}, f"{NAME}: rope_scaling")
    theta = _same(
        f,
        "rope_theta",
        _same(f, "rope_theta", f.number("rope_theta"), old.number("rope_theta"), "rope_scaling"),
        rope.number("rope_theta"),
    )
    eps = f.number("rms_norm_eps")
    scaling = _same(
        f,
        "rope_scaling",
        _read_scaling(scaled, "rope_scaling", f.problems),
        _read_scaling(f.mapping("rope_parameters"), "rope_parameters", f.problems),
    )
    activation = f.text("hidden_act")
    if activation not in (None, "silu", "swish"):
        f.problems.append(f"{NAME}: hidden_act: expected 'silu', found {activation!r}")
    for partial in (f.number("partial_rotary_factor"), rope.number("partial_rotary_factor")):
        if partial not in (None, 1.0):
            f.problems.append(
                f"{NAME}: partial_rotary_factor {partial}: a Llama rotates whole heads"
            )
    f.problems += [*rope.problems, *old.problems]
    claims = {
        "n_kv_heads": f.count("num_key_value_heads"),
        "head_dim": f.count("head_dim"),
        "ffn_dim": f.count("intermediate_size"),
        "vocab_size": f.count("vocab_size"),
        "context": f.count("max_position_embeddings") or _DEFAULT_CONTEXT,
        "tied": f.flag("tie_word_embeddings") or False,
        "attention_bias": f.flag("attention_bias") or False,
        "mlp_bias": f.flag("mlp_bias") or False,
        "dtype": f.text("dtype") or f.text("torch_dtype"),
    }
    if f.problems:
        raise BadInput(f.problems)
    assert dim and n_layers and n_heads
    values = {"rms_norm_eps": eps, "rope_theta": theta}
    notes = [
        f"{NAME}: no {k}, so {_DEFAULTS[k]:g}, transformers' default"
        for k, v in values.items()
        if v is None
    ]
    return Claims(
        source=NAME,
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        norm_eps=eps or _DEFAULTS["rms_norm_eps"],
        rope_theta=theta or _DEFAULTS["rope_theta"],
        rope_scaling=None if scaling == _UNSCALED else scaling,
        notes=tuple(notes),
        **claims,  # type: ignore[arg-type]
    )


T = TypeVar("T")


def _same(
    f: Fields, key: str, four: T | None, five: T | None, where: str = "rope_parameters"
) -> T | None:
    """One of two spellings of a setting: `key` for transformers 4, inside `where` for 5.

    Each version would believe its own, so that there is no right reading where they differ.
    """
    if four is not None and five is not None and four != five:
        f.problems.append(f"{NAME}: {key} is {four} for transformers 4, and {five} in {where}")
    return five if four is None else four


_UNSCALED = RopeScaling("default", 1.0)


def _read_scaling(
    data: Mapping[str, object] | None, key: str, problems: list[str]
) -> RopeScaling | None:
    """A scaling in either version's spelling; None where nothing is said of one."""
    kind = data.get("rope_type", data.get("type")) if data else None
    if not data or kind is None:
        return None
    if kind == "default":
        return _UNSCALED
    f = Fields(data, f"{NAME}: {key}")
    factor = f.number("factor")
    if kind not in _ROPE_KINDS:
        f.problems.append(
            f"{NAME}: {key}: expected one of {', '.join(_ROPE_KINDS)}, found {kind!r}"
        )
    elif factor is None and kind != "longrope":
        f.problems.append(f"{NAME}: {key}: factor is missing")
    scaling = RopeScaling(str(kind), factor or 1.0)
    if kind == "llama3":
        low, high = f.number("low_freq_factor"), f.number("high_freq_factor")
        original = f.count("original_max_position_embeddings")
        f.require(
            low_freq_factor=low, high_freq_factor=high, original_max_position_embeddings=original
        )
        scaling = RopeScaling("llama3", factor or 1.0, low, high, original)
    problems += f.problems
    return scaling


def _scaling_json(scaling: RopeScaling) -> dict[str, object]:
    names = asdict(scaling)
    renamed = {"rope_type": names.pop("kind"), **names}
    renamed["original_max_position_embeddings"] = renamed.pop("original_context")
    return {k: v for k, v in renamed.items() if v is not None}


def write_config(
    spec: ModelSpec, dtype: DType, bos: int | None, eos: int | list[int] | None
) -> dict[str, object]:
    """A config.json from nothing but the spec. `spec.context` must be known."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": spec.attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.dim,
        "initializer_range": 0.02,
        "intermediate_size": spec.ffn_dim,
        "max_position_embeddings": spec.context,
        "mlp_bias": spec.mlp_bias,
        "model_type": "llama",
        "num_attention_heads": spec.n_heads,
        "num_hidden_layers": spec.n_layers,
        "num_key_value_heads": spec.n_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": spec.norm_eps,
        "rope_scaling": _scaling_json(spec.rope_scaling) if spec.rope_scaling else None,
        "rope_theta": spec.rope_theta,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": dtype.torch,
        "use_cache": True,
        "vocab_size": spec.vocab_size,
    }


def update_config(data: Mapping[str, object], spec: ModelSpec, dtype: DType) -> dict[str, object]:
    """The user's own config.json with nothing changed but what the tensors contradict."""
    claims = read_config(data)
    out = dict(data)
    truth = {
        "hidden_size": (claims.dim, spec.dim),
        "num_key_value_heads": (claims.n_kv_heads or claims.n_heads, spec.n_kv_heads),
        "head_dim": (claims.head_dim or spec.dim // spec.n_heads, spec.head_dim),
        "intermediate_size": (claims.ffn_dim, spec.ffn_dim),
        "vocab_size": (claims.vocab_size, spec.vocab_size),
        "tie_word_embeddings": (claims.tied, spec.tied),
        "attention_bias": (claims.attention_bias, spec.attention_bias),
        "mlp_bias": (claims.mlp_bias, spec.mlp_bias),
    }
    out.update({key: true for key, (claimed, true) in truth.items() if claimed != true})
    for key in [k for k in ("dtype", "torch_dtype") if k in data] or ["torch_dtype"]:
        out[key] = dtype.torch
    if "rope_parameters" in data and "rope_theta" not in data:
        # Written by transformers 5 alone; 4.x would fall back on its defaults without a word.
        rope = dict(data["rope_parameters"] or {})  # type: ignore[call-overload]
        out["rope_theta"] = rope.pop("rope_theta", spec.rope_theta)
        out.setdefault("rope_scaling", rope if spec.rope_scaling else None)
    scaled = data.get("rope_scaling")
    if isinstance(scaled, Mapping) and "rope_theta" in scaled:
        out.setdefault("rope_theta", spec.rope_theta)  # 4.x does not look for it in there
    return out


def write_generation_config(bos: int | None, eos: int | list[int] | None) -> dict[str, object]:
    return {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": eos}
