"""The two questions headers cannot answer: repeated key-value heads, and a tied head.

With `probe`, a few blocks of the tensors in question are compared (and, before a head is declared
tied, all of it). Without, the checksums of a torch archive often tell as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.claims import Claims
from llamatools.errors import BadInput
from llamatools.expr.nodes import Expr, Read
from llamatools.expr.probe import alike, checksums_agree, equal
from llamatools.family.registry import OFFICIAL
from llamatools.layouts.join import Copies, Matched, join
from llamatools.layouts.table import RowOrder
from llamatools.opening.reconcile import head_width, kv_heads

_Q = "layers.0.attention.q.weight"
_K = "layers.0.attention.k.weight"
_V = "layers.0.attention.v.weight"


def find_kv_copies(claims: Claims, matched: Matched, *, probe: bool) -> int:
    """How many neighbouring files hold the same key-value head.

    Files that outnumber the heads hold one each. Mostly the config's count of heads tells; but
    a config may count the copies themselves, and then only their data can.
    """
    keys = matched.tensors[_K][1]
    files = len(keys)
    width = head_width(claims, _rows(matched.tensors[_Q][1]))
    if keys[0].shape[0] % width:
        raise BadInput(
            f"{_K}: {keys[0].shape[0]} rows in each file are no multiple of the head width "
            f"{width}, which follows from {claims.n_heads} heads",
            hint=f"is the number of heads in {claims.source} that of this model?",
        )
    claimed = claims.n_kv_heads or files
    if files == 1 or keys[0].shape[0] != width or claimed > files:
        return 1
    if files % claimed:
        raise BadInput(f"{claims.source}: {claimed} key-value heads in {files} files of one each")
    if claimed < files:
        return files // claimed
    same = alike if probe else checksums_agree
    values = matched.tensors[_V][1]
    for copies in range(files, 1, -1):
        if files % copies == 0 and all(_repeats(t, copies, same) for t in (keys, values)):
            return copies
    return 1


def _rows(copies: Copies) -> int:
    return sum(c.shape[0] for c in copies)


def _repeats(copies: Copies, times: int, same: Callable[[Expr, Expr], bool | None]) -> bool:
    """Whether every run of `times` files holds one tensor."""
    return all(
        same(Read(copies[i - i % times]), Read(copies[i])) for i in range(len(copies)) if i % times
    )


def join_all(claims: Claims, matched: Matched, kv_copies: int) -> dict[str, Expr]:
    """Every canonical tensor from its shards."""
    q_rows = _rows(matched.tensors[_Q][1])
    stored_heads = kv_heads(claims, q_rows, _rows(matched.tensors[_K][1]))
    heads: Mapping[RowOrder, int | None] = {
        RowOrder.SAME: None,
        RowOrder.PAIRS_Q: claims.n_heads,
        RowOrder.PAIRS_KV: stored_heads // kv_copies,
    }
    return {
        name: join(name, row, copies, heads[row.order], kv_copies)
        for name, (row, copies) in matched.tensors.items()
    }


def _released_tied(claims: Claims) -> bool:
    """Whether these sizes are those of an official model whose head is its embedding."""
    sizes = (claims.dim, claims.n_layers, claims.n_heads, claims.n_kv_heads)
    return claims.tied is None and any(
        o.tied and sizes == (o.dim, o.n_layers, o.n_heads, o.n_kv_heads) for o in OFFICIAL
    )


def find_same_head(claims: Claims, values: Mapping[str, Expr], *, probe: bool) -> bool:
    """Whether the head's values are the embedding's. A checkpoint that stores none has them."""
    if HEAD not in values:
        return True
    embedding, head = values[EMBEDDING], values[HEAD]
    if not probe:
        told = checksums_agree(embedding, head)
        return bool(claims.tied) or (_released_tied(claims) if told is None else told)
    # Where nobody says "tied", a file full of zeros is no evidence that it is.
    return (bool(claims.tied) or alike(embedding, head)) and equal(embedding, head)
