"""Architectures from a params.json or config.json alone, for models of every kind.

What is said of dense models is read as it is for conversion. The nested configs of Llama 3.2
vision and Llama 4 are read here, for memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llamatools.claims import Claims
from llamatools.errors import BadInput, Unsupported
from llamatools.family.identify import identify, resolve_scaling
from llamatools.family.refuse import refuse_config, refuse_params
from llamatools.family.registry import OFFICIAL
from llamatools.jsonfields import Fields
from llamatools.layouts import hf_config, meta_config
from llamatools.memory.architecture import Architecture, Experts, Layer, Tower, dense
from llamatools.memory.formats import Format, of_config
from llamatools.spec import ModelSpec
from llamatools.text import safe

_OLD_VOCABULARY = 32000
_MOST_LAYERS = 10_000
_MOST_EXTENT = 1 << 24
"""Beyond any model; sums stay small integers, and tables small."""


@dataclass(frozen=True)
class Described:
    """A model as its config describes it."""

    architecture: Architecture
    format: Format
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    quantised: str | None = None
    """How the config says its weights are quantised."""


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


def read_meta(data: Mapping[str, object]) -> Described:
    """A params.json."""
    quantised = "quantization_args" in data or "lora_args" in data
    plain = {k: v for k, v in data.items() if k not in ("quantization_args", "lora_args")}
    crosses = 0
    f = Fields(data, meta_config.NAME)
    if "vision_num_cross_attention_layers" in data and "moe_args" not in data:
        crosses = f.count("vision_num_cross_attention_layers") or 0
        image, tiles = f.count("vision_chunk_size"), f.count("vision_max_num_chunks")
        f.problems += [
            f"{meta_config.NAME}: {key} {n:,} is more than any model has ({most:,})"
            for key, n, most in (
                ("vision_num_cross_attention_layers", crosses, _MOST_LAYERS),
                ("vision_chunk_size", image or 0, _MOST_EXTENT),
                ("vision_max_num_chunks", tiles or 0, _MOST_EXTENT),
            )
            if n > most
        ]
        if f.problems:
            raise BadInput(f.problems)
        plain = {k: v for k, v in plain.items() if not k.startswith("vision_")}
    try:
        refuse_params(plain)
    except Unsupported as e:
        hint = "give its config.json, or the name of the release: llama-4-scout, llama-4-maverick"
        raise Unsupported(e.problems, hint=hint if "Llama 4" in str(e) else e.hint) from None
    claims = meta_config.read_params(plain)
    spec, notes, warnings = settle(claims)
    if not crosses:
        split = identify(spec, context_is_known=False).generation.split_vocabulary
        described = Described(dense(spec, split_vocabulary=split), of_config(None), notes, warnings)
    else:
        total = spec.n_layers + crosses
        tower = replace(mllama_tower(), image=image or 560, tiles=tiles or 4)
        described = Described(
            mllama(replace(spec, n_layers=total), _spread(total, crosses), tower),
            of_config(None), notes, warnings,
        )  # fmt: skip
    return replace(described, quantised="Meta's own scheme" if quantised else None)


def _spread(total: int, crosses: int) -> frozenset[int]:
    """Which layers cross-attend: one after as many others as there are for each, as released."""
    step = total // crosses
    return frozenset(range(step - 2, total, step)) if step > 1 else frozenset(range(crosses))


def settle(claims: Claims) -> tuple[ModelSpec, tuple[str, ...], tuple[str, ...]]:
    """(spec, notes, warnings) of claims that no tensors confirm."""
    problems, notes, warnings = [], list(claims.notes), []
    kv = claims.n_kv_heads or claims.n_heads
    head_dim = claims.head_dim or claims.dim // claims.n_heads
    if claims.head_dim is None and claims.dim % claims.n_heads:
        problems.append(f"{claims.source}: {claims.n_heads} heads do not divide dim {claims.dim}")
    if claims.n_heads % kv:
        problems.append(
            f"{claims.source}: {claims.n_heads} heads cannot share {kv} key-value heads"
        )
    if claims.ffn_dim is None:
        problems.append(f"{claims.source}: nothing tells the width of the feed-forward")
    vocab = claims.vocab_size
    if vocab is None and claims.source == meta_config.NAME:
        vocab = _OLD_VOCABULARY
        notes.append(
            f"{claims.source}: the vocabulary is the tokenizer's; {vocab:,} as in Llama 1 and 2"
        )
    elif vocab is None:
        problems.append(f"{claims.source}: vocab_size is missing")
    extents = {"layers": (claims.n_layers, _MOST_LAYERS)} | {
        what: (n or 0, _MOST_EXTENT)
        for what, n in (
            ("dim", claims.dim), ("heads", claims.n_heads), ("head_dim", head_dim),
            ("feed-forward width", claims.ffn_dim), ("vocabulary", vocab),
        )
    }  # fmt: skip
    problems += [
        f"{claims.source}: {what} {n:,} is more than any model has ({most:,})"
        for what, (n, most) in extents.items()
        if n > most
    ]
    if problems:
        raise BadInput(problems, hint="sizes that a config does not state come from tensors: "
                       "give the checkpoint")  # fmt: skip
    sizes = (claims.dim, claims.n_layers, claims.n_heads, claims.ffn_dim)
    released = [o for o in OFFICIAL if sizes == (o.dim, o.n_layers, o.n_heads, o.ffn_dim)]
    tied = claims.tied
    if tied is None:
        tied = any(o.tied for o in released)
    copies = {kv // o.n_kv_heads for o in released if kv != o.n_kv_heads and not kv % o.n_kv_heads}
    if claims.source == meta_config.NAME and copies and kv not in {o.n_kv_heads for o in released}:
        n = copies.pop()
        warnings.append(
            f"{claims.source} counts {kv} key-value heads; {released[0].title} has {kv // n}: "
            f"the release in {kv} files holds each {n} times, and so does its cache"
        )
    spec = ModelSpec(
        dim=claims.dim,
        n_layers=claims.n_layers,
        n_heads=claims.n_heads,
        n_kv_heads=kv,
        head_dim=head_dim,
        ffn_dim=claims.ffn_dim or 0,
        vocab_size=vocab or 0,
        norm_eps=claims.norm_eps,
        rope_theta=claims.rope_theta,
        rope_scaling=None,
        context=claims.context,
        tied=bool(tied),
        attention_bias=bool(claims.attention_bias),
        mlp_bias=bool(claims.mlp_bias),
    )
    spec = replace(spec, rope_scaling=resolve_scaling(claims, spec, same_head=bool(tied)))
    return spec, tuple(notes), tuple(warnings)


def _dense(data: Mapping[str, object]) -> Described:
    claims = hf_config.read_config(data)
    spec, notes, warnings = settle(claims)
    return Described(dense(spec), of_config(claims.dtype), notes, warnings)


def _text(data: Mapping[str, object]) -> tuple[Fields, Mapping[str, object], Claims]:
    """The decoder's part of a config that nests it; a text model's config is that part itself."""
    inner = data.get("text_config")
    text = dict(inner) if isinstance(inner, dict) else dict(data)
    text.setdefault("torch_dtype", data.get("torch_dtype") or data.get("dtype"))
    text["tie_word_embeddings"] = bool(data.get("tie_word_embeddings"))
    return Fields(text, f"{hf_config.NAME}: text_config"), text, hf_config.read_config(text)


def _indices(f: Fields, data: Mapping[str, object], key: str, n_layers: int) -> frozenset[int]:
    value = data.get(key)
    good = isinstance(value, list) and all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < n_layers for i in value
    )
    if not good:
        f.problems.append(f"{hf_config.NAME}: {key}: expected numbers of layers")
        return frozenset()
    assert isinstance(value, list)
    return frozenset(value)


def _mllama(data: Mapping[str, object]) -> Described:
    f, text, claims = _text(data)
    spec, notes, warnings = settle(claims)
    crosses = _indices(f, text, "cross_attention_layers", spec.n_layers)
    tower = _tower(data, f, mllama_tower(), {
        "dim": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
        "global_layers": "num_global_layers", "image": "image_size", "patch": "patch_size",
        "tiles": "max_num_tiles", "output": "vision_output_dim",
    })  # fmt: skip
    if f.problems:
        raise BadInput(f.problems)
    return Described(mllama(spec, crosses, tower), of_config(claims.dtype), notes, warnings)


def mllama_tower() -> Tower:
    """The image encoder of both released sizes."""
    return Tower("mllama", 1280, 5120, 32, 8, 560, 14, 4, 8, 7680)


def mllama(spec: ModelSpec, crosses: frozenset[int], tower: Tower | None) -> Architecture:
    """Llama 3.2 vision: some layers attend to the image instead of the text."""
    layers = tuple(Layer("cross" if i in crosses else "self") for i in range(spec.n_layers))
    return Architecture(spec, layers, tower=tower, extra_rows=8)


def _llama4(data: Mapping[str, object]) -> Described:
    f, text, claims = _text(data)
    spec, notes, warnings = settle(claims)
    chunk = f.count("attention_chunk_size")
    n = spec.n_layers
    roped = text.get("no_rope_layers")
    if isinstance(roped, list) and roped:
        whole = frozenset(i for i, on in enumerate(roped[:n]) if not on)
    else:
        every = f.count("no_rope_layer_interval") or 4
        whole = frozenset(range(every - 1, n, every))
    if isinstance(text.get("moe_layers"), list):
        mixed = _indices(f, text, "moe_layers", n)
    else:
        step = f.count("interleave_moe_layer_step") or 1
        mixed = frozenset(range(step - 1, n, step))
    count, wide = f.count("num_local_experts"), f.count("intermediate_size_mlp")
    f.require(num_local_experts=count, intermediate_size_mlp=wide)
    tower = _tower(data, f, llama4_tower(), {
        "dim": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
        "image": "image_size", "patch": "patch_size", "output": "vision_output_dim",
        "adapter": "projector_input_dim",
    })  # fmt: skip
    if f.problems:
        raise BadInput(f.problems)
    experts = Experts(count or 1, wide or spec.ffn_dim)
    a = llama4(spec, experts, chunk, whole, mixed, tower)
    return Described(a, of_config(claims.dtype), notes, warnings)


def llama4_tower() -> Tower:
    """The image encoder of both released sizes."""
    return Tower("llama4", 1408, 5632, 34, 0, 336, 14, 16, 0, 4096, 4096)


def llama4(
    spec: ModelSpec,
    experts: Experts,
    chunk: int | None,
    whole: frozenset[int],
    mixed: frozenset[int],
    tower: Tower | None,
) -> Architecture:
    """Llama 4: experts in layers `mixed`; attention within chunks, but in layers `whole`."""
    layers = tuple(
        Layer(window=None if i in whole else chunk, experts=i in mixed)
        for i in range(spec.n_layers)
    )
    return Architecture(spec, layers, experts=experts, tower=tower)


def _tower(
    data: Mapping[str, object], f: Fields, released: Tower, keys: Mapping[str, str]
) -> Tower | None:
    """The image encoder a config states, of which a text model has none."""
    inner = data.get("vision_config")
    if not isinstance(inner, dict):
        return None
    v = Fields(inner, f"{hf_config.NAME}: vision_config")
    found = {name: v.count(key) for name, key in keys.items()}
    v.require(**{keys[name]: n for name, n in found.items()})
    ratios = inner.get("supported_aspect_ratios")
    if released.kind == "mllama" and isinstance(ratios, list):
        found["aspect_ratios"] = len(ratios)
    f.problems += v.problems
    stated = {name: n for name, n in found.items() if n is not None}
    too_large = {n for n in stated.values() if n > _MOST_EXTENT}
    if too_large:
        f.problems.append(f"{hf_config.NAME}: vision_config: {max(too_large):,} is more than any")
    return replace(released, **stated)  # type: ignore[arg-type]


_KINDS: Mapping[str, Callable[[Mapping[str, object]], Described]] = {
    "mllama": _mllama,
    "mllama_text_model": _mllama,
    "llama4": _llama4,
    "llama4_text": _llama4,
}
