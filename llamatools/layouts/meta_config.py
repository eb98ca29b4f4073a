"""params.json: read into claims, written from a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llamatools.claims import Claims
from llamatools.errors import BadInput, NotRepresentable
from llamatools.family.identify import implied_factor
from llamatools.jsonfields import Fields
from llamatools.spec import ModelSpec, RopeScaling, llama3_scaling

NAME = "params.json"
DEFAULT_THETA = 1e4
_MAX_MULTIPLIER = 1000.0

_KNOWN = {
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
    "max_seq_len",
    "max_batch_size",
}


def unwrap(data: Mapping[str, object]) -> Mapping[str, object]:
    """Some releases nest everything under "model"."""
    inner = data.get("model")
    return inner if isinstance(inner, dict) else data


def read_params(data: Mapping[str, object]) -> Claims:
    """Claims of a params.json; BadInput lists every value that makes no sense."""
    inner = unwrap(data)
    f = Fields(inner, NAME)
    dim, n_layers, n_heads = f.count("dim"), f.count("n_layers"), f.count("n_heads")
    norm_eps = f.number("norm_eps")
    f.require(dim=dim, n_layers=n_layers, n_heads=n_heads, norm_eps=norm_eps)
    n_kv_heads = f.count("n_kv_heads")
    vocab_size = None if inner.get("vocab_size") == -1 else f.count("vocab_size")
    multiple_of = f.count("multiple_of")
    multiplier = f.number("ffn_dim_multiplier", below=_MAX_MULTIPLIER)
    theta = f.number("rope_theta")
    scaled = f.flag("use_scaled_rope") or False
    factor = f.number("rope_scaling_factor")
    if f.problems:
        raise BadInput(f.problems)
    assert dim and n_layers and n_heads and norm_eps
    unknown = sorted(set(inner) - _KNOWN)
    notes = [f"{NAME}: key {k!r} is not one of Meta's; it says nothing here" for k in unknown]
    if theta is None:
        notes.append(f"{NAME}: no rope_theta, so {DEFAULT_THETA:g} as in Llama 1 and 2")
    return Claims(
        source=NAME,
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=None,
        q_dim=dim,
        ffn_dim=ffn_width(dim, multiple_of, multiplier) if multiple_of else None,
        vocab_size=vocab_size,
        norm_eps=norm_eps,
        rope_theta=theta or DEFAULT_THETA,
        rope_scaling=llama3_scaling(factor) if scaled and factor else None,
        scaled=scaled,
        notes=tuple(notes),
    )


def ffn_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Hidden width of the feed-forward as Meta's code derives it, rounding twice downwards."""
    width = int(2 * 4 * dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * -(-width // multiple_of)


_MULTIPLES = (256, 1024, 4096, 512, 128, 64, 32, 16, 8, 4, 2, 1)


def _multipliers(dim: int, ffn_dim: int) -> Iterator[float | None]:
    """None first, then decimals of growing length, then neighbours of the exact quotient."""
    yield None
    exact = ffn_dim / int(8 * dim / 3)
    for digits in range(1, 18):
        scale = 10**digits
        for numerator in range(int(exact * scale) - 1, int(exact * scale) + 3):
            if numerator > 0:
                yield numerator / scale


def ffn_pair(dim: int, ffn_dim: int) -> tuple[int, float | None]:
    """(multiple_of, ffn_dim_multiplier) that give exactly this width, the plainest first."""
    for multiplier in _multipliers(dim, ffn_dim):
        for multiple_of in _MULTIPLES:
            if ffn_width(dim, multiple_of, multiplier) == ffn_dim:
                return multiple_of, multiplier
    raise NotRepresentable(
        f"no multiple_of and ffn_dim_multiplier give a feed-forward width of {ffn_dim} "
        f"for dim {dim}, so {NAME} cannot state it"
    )


def write_params(
    spec: ModelSpec, shards: int, pair: tuple[int, float | None], *, same_head: bool
) -> dict[str, object]:
    """params.json for a model in `shards` files. `pair` is (multiple_of, ffn_dim_multiplier).

    With more files than key-value heads every file holds one head, and Meta's code, which
    divides n_kv_heads by the number of files, must be told the number of stored heads.
    """
    multiple_of, multiplier = pair
    out: dict[str, object] = {
        "dim": spec.dim,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_kv_heads": max(spec.n_kv_heads, shards),
        "vocab_size": spec.vocab_size,
        "multiple_of": multiple_of,
    }
    if multiplier is not None:
        out["ffn_dim_multiplier"] = multiplier
    out["norm_eps"] = spec.norm_eps
    out["rope_theta"] = spec.rope_theta
    out["use_scaled_rope"] = spec.rope_scaling is not None
    if spec.rope_scaling and spec.rope_scaling.factor != implied_factor(spec, same_head):
        out["rope_scaling_factor"] = spec.rope_scaling.factor
    return out


def update_params(
    data: Mapping[str, object], claims: Claims, written: Mapping[str, object], spec: ModelSpec
) -> dict[str, object]:
    """The user's own params.json with nothing changed but what `written`, which is true, denies."""
    inner = dict(unwrap(data))
    true_kv = written["n_kv_heads"]
    if (claims.n_kv_heads or claims.n_heads) != true_kv:
        inner["n_kv_heads"] = true_kv
    if claims.dim != spec.dim:
        inner["dim"] = spec.dim
    if claims.vocab_size not in (None, spec.vocab_size):
        inner["vocab_size"] = spec.vocab_size
    if claims.ffn_dim != spec.ffn_dim:
        inner.pop("ffn_dim_multiplier", None)
        inner.update({k: written[k] for k in _FFN if k in written})
    return {**data, "model": inner} if unwrap(data) is not data else inner


_FFN = ("multiple_of", "ffn_dim_multiplier")


def check_representable(spec: ModelSpec) -> None:
    """Raise NotRepresentable where Meta's layout has no way to say what the model is."""
    problems = []
    if spec.head_dim * spec.n_heads != spec.dim:
        problems.append(
            f"head_dim {spec.head_dim} x {spec.n_heads} heads is not dim {spec.dim}, "
            f"and {NAME} has no head_dim"
        )
    if spec.rope_scaling and not _is_llama3(spec.rope_scaling):
        problems.append(
            f"rope scaling {spec.rope_scaling} is not Llama 3's, the only one {NAME} can state"
        )
    if problems:
        raise NotRepresentable(problems, hint="convert with --to hf or --to safetensors instead")


def losses(spec: ModelSpec, usual_context: int, *, same_head: bool) -> tuple[str, ...]:
    """What Meta's files cannot say of a model, though its tensors are all there."""
    notes = []
    if spec.context not in (None, usual_context):
        notes.append(
            f"{NAME} cannot state the context length {spec.context}; read back, it is "
            f"{usual_context}, as is usual for such a model"
        )
    if spec.attention_bias or spec.mlp_bias:
        notes.append("Meta's reference code has no biases, and does not load this model")
    if spec.rope_scaling and spec.rope_scaling.factor != implied_factor(spec, same_head):
        notes.append(
            f"rope factor {spec.rope_scaling.factor:g} is written as rope_scaling_factor, which "
            "Meta's reference code does not know: it takes 8"
        )
    return tuple(notes)


def _is_llama3(scaling: RopeScaling) -> bool:
    return scaling == llama3_scaling(scaling.factor)
