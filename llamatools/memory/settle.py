"""From claims that no tensors confirm to a spec: what follows, what is missing, what is odd."""

from __future__ import annotations

from dataclasses import replace

from llamatools.claims import Claims
from llamatools.errors import BadInput
from llamatools.family.identify import resolve_scaling
from llamatools.family.registry import OFFICIAL
from llamatools.layouts import meta_config
from llamatools.memory.described import MOST_EXTENT, MOST_LAYERS
from llamatools.spec import ModelSpec

_OLD_VOCABULARY = 32000


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
    extents = {"layers": (claims.n_layers, MOST_LAYERS)} | {
        what: (n or 0, MOST_EXTENT)
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
