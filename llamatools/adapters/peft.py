"""PEFT's adapters: adapter_config.json and adapter_model.safetensors or .bin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from llamatools.adapters.config import Config
from llamatools.adapters.names import (
    B_BIAS,
    BIAS,
    EMBEDDING_A,
    EMBEDDING_B,
    IGNORED,
    MAGNITUDE,
    TOKENS,
    VOCABULARY_MODULES,
    WEIGHT,
    A,
    B,
    parse_name,
)
from llamatools.adapters.part import LowRankPart, Part
from llamatools.containers.base import StoredTensor
from llamatools.errors import BadInput
from llamatools.expr.blocks import BlockDiagonal
from llamatools.expr.nodes import Expr, Read
from llamatools.expr.probe import equal
from llamatools.text import listing, safe

Roles = dict[str, StoredTensor]
"""Role -> tensor, of one module."""

_EMBEDDING, _HEAD = VOCABULARY_MODULES
_FACTORS = ((A, B, "lora_A", "lora_B"),
            (EMBEDDING_A, EMBEDDING_B, "lora_embedding_A", "lora_embedding_B"))  # fmt: skip


def read_parts(tensors: Iterable[StoredTensor], config: Config) -> dict[str, Part]:
    """Every module's part. BadInput lists all that is missing, unknown or does not fit."""
    modules = _by_module(tensors)
    problems: list[str] = []
    parts = {m: _part(m, roles, config, problems) for m, roles in modules.items()}
    if problems:
        raise BadInput(
            problems[:20],
            hint="the file and its config contradict each other, or it was not saved whole",
        )
    return parts


def _by_module(tensors: Iterable[StoredTensor]) -> dict[str, Roles]:
    out: dict[str, Roles] = {}
    unknown: list[str] = []
    twice: list[str] = []
    names: set[str] = set()
    for t in tensors:
        name = parse_name(t.name)
        if name is None:
            unknown.append(t.name)
        elif name.role != IGNORED:
            names |= {name.adapter} if name.adapter else set()
            roles = out.setdefault(name.module, {})
            known = roles.setdefault(name.role, t)
            # With a resized vocabulary PEFT stores what it saves under two names.
            if known is not t and not equal(Read(known), Read(t)):
                twice.append(t.name)
    problems = []
    if unknown:
        problems.append(f"tensors of an adapter that are not known: {listing(unknown)}")
    if len(names) > 1:
        problems.append(f"the file holds several adapters: {listing(sorted(names))}")
    elif twice:
        problems.append(f"stored twice, with different values: {listing(twice)}")
    if problems:
        raise BadInput(problems)
    return out


def _part(module: str, roles: Roles, config: Config, problems: list[str]) -> Part:
    part = Part(
        module,
        weight=_read(roles, WEIGHT),
        bias=_read(roles, BIAS),
        magnitude=_read(roles, MAGNITUDE),
        trained=_is_trained(module, roles, config),
        is_embedding=EMBEDDING_A in roles,
    )
    if MAGNITUDE in roles and not config.dora:
        problems.append(
            f"{safe(module)}: has a magnitude vector, but {config.where} does not say use_dora"
        )
    for first, second, a, b in _FACTORS:
        for has, lacks, found, missing in ((first, second, a, b), (second, first, b, a)):
            if has in roles and lacks not in roles:
                problems.append(f"{safe(module)}: has {found} and no {missing}")
    if MAGNITUDE in roles and not {A, EMBEDDING_A} & roles.keys():
        problems.append(f"{safe(module)}: has a magnitude vector and no low-rank factors")
    if config.dora and MAGNITUDE not in roles and {A, EMBEDDING_A} & roles.keys():
        problems.append(
            f"{safe(module)}: {config.where} says use_dora, but has no magnitude vector"
        )
    if A in roles and B in roles:
        part = replace(part, low_rank=_linear(module, roles, config, problems))
        if B_BIAS in roles:
            part = replace(part, added_bias=(config.scale_of(module), Read(roles[B_BIAS])))
    elif B_BIAS in roles:
        problems.append(f"{safe(module)}: has a bias of lora_B and no factors")
    elif EMBEDDING_A in roles and EMBEDDING_B in roles:
        part = replace(part, low_rank=_embedding(module, roles, config, problems))
    if TOKENS in roles:
        part = replace(part, tokens=_tokens(module, roles[TOKENS], config, problems))
    return part


def _read(roles: Mapping[str, StoredTensor], role: str) -> Expr | None:
    return Read(roles[role]) if role in roles else None


def _is_trained(module: str, roles: Roles, config: Config) -> bool:
    """Whether a weight in the file was trained, rather than saved since it has another size."""
    return WEIGHT not in roles or config.saves(module)


def _check_factors(
    module: str, a: StoredTensor, b: StoredTensor, config: Config, problems: list[str]
) -> None:
    for t in (a, b):
        if len(t.shape) != 2 or not t.numel:
            problems.append(
                f"{safe(t.name)}: expected a matrix, found shape {list(t.shape)}: the adapter may "
                "have been saved from one rank of several"
            )
            return
    rank = config.rank_of(module)
    # A tied head's are the embedding's own, though scaled as the config says of the head.
    shared = config.keeps_tied and module.endswith(_HEAD) and config.rank_of(_EMBEDDING)
    if a.shape[0] not in (rank, shared):
        problems.append(
            f"{safe(a.name)}: rank {a.shape[0]}, but {config.where} says {rank} for this module"
        )


def _linear(module: str, roles: Roles, config: Config, problems: list[str]) -> LowRankPart | None:
    a, b = roles[A], roles[B]
    before = len(problems)
    _check_factors(module, a, b, config, problems)
    if len(problems) > before:
        return None
    left, right = _expand(module, Read(b), Read(a), config, problems)
    if len(problems) == before and left.columns != right.rows:
        problems.append(
            f"{safe(module)}: lora_A {list(a.shape)} and lora_B {list(b.shape)} "
            "have no rank in common"
        )
    return LowRankPart(left, right, config.scale_of(module))


def _expand(
    module: str, left: Expr, right: Expr, config: Config, problems: list[str]
) -> tuple[Expr, Expr]:
    """BD-LoRA's factors hold the blocks on the diagonal alone."""
    blocks = config.blocks
    if blocks is None:
        return left, right
    in_a, in_b = (any(word in module for word in words) for words in (blocks.a, blocks.b))
    if in_a and in_b:
        problems.append(f"{safe(module)}: use_bdlora names both of its factors block-diagonal")
    elif in_a and right.rows % blocks.count == 0:
        return left, BlockDiagonal(right, blocks.count)
    elif in_b and left.rows % blocks.count == 0:
        return BlockDiagonal(left, blocks.count), right
    elif in_a or in_b:
        problems.append(f"{safe(module)}: does not consist of {blocks.count} blocks")
    return left, right


def _embedding(
    module: str, roles: Roles, config: Config, problems: list[str]
) -> LowRankPart | None:
    """(B·A) transposed: rows of the vocabulary come from the columns of A."""
    a, b = roles[EMBEDDING_A], roles[EMBEDDING_B]
    before = len(problems)
    _check_factors(module, a, b, config, problems)
    if len(problems) > before:
        return None
    left, right = Read(transposed(a)), Read(transposed(b))
    if left.columns != right.rows:
        problems.append(
            f"{safe(module)}: lora_embedding_A {list(a.shape)} and lora_embedding_B "
            f"{list(b.shape)} have no rank in common"
        )
    return LowRankPart(left, right, config.scale_of(module))


def transposed(t: StoredTensor) -> StoredTensor:
    """A stored matrix (m, n) read as (n, m)."""
    return replace(t, shape=t.shape[::-1], strides=t.strides[::-1])


def _tokens(
    module: str, rows: StoredTensor, config: Config, problems: list[str]
) -> tuple[tuple[int, ...], Expr] | None:
    known = config.tokens or {}
    # PEFT gives the head of a tied model the embedding's own tokens, without naming it.
    key = next((k for k in known if module == k or module.endswith("." + k)), None)
    if key is None and len(known) == 1 and module.endswith("lm_head"):
        key = next(iter(known))
    if key is None:
        problems.append(f"{safe(module)}: {config.where} does not say which tokens these rows are")
        return None
    indices = known[key]
    if len(rows.shape) != 2 or rows.shape[0] != len(indices):
        problems.append(
            f"{safe(rows.name)}: shape {list(rows.shape)}, but {config.where} names "
            f"{len(indices)} tokens"
        )
        return None
    if len(set(indices)) < len(indices):
        problems.append(f"{config.where}: trainable_token_indices: a token is named twice")
    return indices, Read(rows)
