"""Llama 4 by Meta's own params.json: widths as in llama_models' llama4/model.py and moe.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llamatools.errors import BadInput
from llamatools.jsonfields import Fields
from llamatools.layouts import meta_config
from llamatools.memory.architecture import Architecture, Experts, Tower
from llamatools.memory.described import MOST_EXTENT, Described
from llamatools.memory.formats import of_config
from llamatools.memory.llama4 import architecture, released_tower
from llamatools.memory.settle import settle

_OWN = {
    "attention_chunk_size", "attn_scale", "attn_temperature_tuning", "ffn_exp", "floor_scale",
    "head_dim", "moe_args", "nope_layer_interval", "rope_high_freq_factor", "rope_scaling_factor",
    "use_qk_norm", "use_scaled_rope", "vision_args",
}  # fmt: skip
"""What Llama 4's has beyond others', or means otherwise; none of it but widths takes memory."""

_VOCABULARY = 202048
_MOST_TIMES = 1000.0


def read(data: Mapping[str, object]) -> Described:
    plain = {k: v for k, v in data.items() if k not in _OWN}
    notes: tuple[str, ...] = ()
    if plain.get("vocab_size") in (None, -1):
        plain["vocab_size"] = _VOCABULARY
        notes = (f"{meta_config.NAME}: no vocab_size; {_VOCABULARY:,} as in both of Llama 4",)
    spec, more, warnings = settle(meta_config.read_params(plain))
    f = Fields(data, meta_config.NAME)
    moe = Fields(f.mapping("moe_args") or {}, f"{meta_config.NAME}: moe_args")
    count, step = moe.count("num_experts"), moe.count("interleave_moe_layer_step") or 1
    moe.require(num_experts=count)
    wide = _experts_width(spec.dim, f, moe)
    chunk, every = f.count("attention_chunk_size"), f.count("nope_layer_interval")
    tower = _tower(f)
    problems = f.problems + moe.problems
    if problems:
        raise BadInput(problems)
    n = spec.n_layers
    whole = frozenset(range(every - 1, n, every) if every else ())
    mixed = frozenset(range(step - 1, n, step))
    experts = Experts(count or 1, spec.ffn_dim)
    a: Architecture = architecture(replace(spec, ffn_dim=wide), experts, chunk, whole, mixed, tower)
    return Described(a, of_config(None), (*notes, *more), warnings)


def _experts_width(dim: int, f: Fields, moe: Fields) -> int:
    """As MoE.__init__ derives it: rounded down thrice, then up to a multiple."""
    times = f.number("ffn_exp", below=_MOST_TIMES)
    f.require(ffn_exp=times)
    capacity = moe.number("capacity_factor", below=_MOST_TIMES) or 1.0
    scaled = moe.flag("auto_scale_F")
    multiple = f.count("multiple_of") or 256
    width = int(2 * int((times or 0) * dim) / 3)
    width = int((f.number("ffn_dim_multiplier", below=_MOST_TIMES) or 1.0) * width)
    if scaled is not False:
        width = int(width / (capacity + 1))
    width += -width % multiple
    if width > MOST_EXTENT:
        f.problems.append(f"{meta_config.NAME}: experts {width:,} wide are more than any model has")
    return width


def _tower(f: Fields) -> Tower | None:
    given = f.mapping("vision_args")
    if given is None:
        return None
    v = Fields(given, f"{meta_config.NAME}: vision_args")
    image, patch = (_side(v, key) for key in ("image_size", "patch_size"))
    dim, layers, output = v.count("dim"), v.count("n_layers"), v.count("output_dim")
    ratio, shuffle = (
        v.number("mlp_ratio", _MOST_TIMES),
        v.number("pixel_shuffle_ratio", _MOST_TIMES),
    )
    v.require(dim=dim, n_layers=layers, output_dim=output, mlp_ratio=ratio,
              pixel_shuffle_ratio=shuffle)  # fmt: skip
    f.problems += v.problems
    if not (image and patch and dim and layers and output and ratio and shuffle):
        return None
    ffn = int(ratio * dim)
    sizes = {"image": image, "patch": patch, "dim": dim, "layers": layers, "output": output}
    f.problems += [
        f"{meta_config.NAME}: vision_args: {n:,} is more than any model has"
        for n in (*sizes.values(), ffn)
        if n > MOST_EXTENT
    ]
    if int(dim // shuffle**2) != ffn:
        f.problems.append(
            f"{meta_config.NAME}: vision_args: pixel_shuffle_ratio {shuffle:g} makes patches as "
            f"wide as {int(dim // shuffle**2):,}, and the feed-forward has {ffn:,}"
        )
    return replace(released_tower(), ffn=ffn, adapter=output, **sizes)  # type: ignore[arg-type]


def _side(v: Fields, key: str) -> int | None:
    """The side of a square."""
    size = Fields(v.mapping(key) or {}, f"{meta_config.NAME}: vision_args: {key}")
    height, width = size.count("height"), size.count("width")
    size.require(height=height, width=width)
    if height != width:
        size.problems.append(f"{meta_config.NAME}: vision_args: {key}: {height} by {width}: "
                             "a square is expected")  # fmt: skip
    v.problems += size.problems
    return height
