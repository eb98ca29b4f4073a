"""Claims of a config against shapes of tensors: the spec that is true, and every disagreement.

Tensors win wherever they can speak. What they cannot tell (how many heads share a matrix, the
constants of the forward pass) is the config's to say, and is checked for consistency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llamatools.canonical import tensors
from llamatools.claims import Claims
from llamatools.containers.problems import refuse_if
from llamatools.errors import BadInput
from llamatools.family.identify import resolve_scaling
from llamatools.spec import ModelSpec
from llamatools.text import listing, safe

Shapes = Mapping[str, tuple[int, ...]]
"""Canonical name -> shape of the whole tensor; key-value heads as stored, copies included."""

_Q = "layers.0.attention.q.weight"
_K = "layers.0.attention.k.weight"
_GATE = "layers.0.mlp.gate.weight"


@dataclass
class Truth:
    """Collects conflicts while values are settled."""

    claims: Claims
    conflicts: list[str] = field(default_factory=list)

    def settle(self, what: str, found: int | bool, claimed: object) -> None:
        """Note where the file says otherwise than the tensors; the tensors win."""
        if claimed is not None and claimed != found:
            self.conflicts.append(
                f"{self.claims.source} says {what} {claimed}, the tensors say {found}: "
                "the tensors are believed"
            )


def reconcile(
    claims: Claims, shapes: Shapes, *, tied: bool, same_head: bool, kv_copies: int = 1
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec, and the conflicts found on the way.

    `kv_copies` is how many files hold each key-value head; Meta's configs may count the copies.
    """
    t = Truth(claims)
    vocab_size, dim = _matrix(shapes, "embedding.weight")
    q_rows = _matrix(shapes, _Q)[0]
    ffn_dim = _matrix(shapes, _GATE)[0]
    head_dim = head_width(claims, q_rows)
    n_kv_heads = kv_heads(claims, q_rows, _matrix(shapes, _K)[0])
    if claims.n_heads % n_kv_heads:
        raise BadInput(
            f"{claims.source}: {claims.n_heads} heads cannot share {n_kv_heads} key-value heads"
        )
    attention_bias = any(".attention." in n and n.endswith(".bias") for n in shapes)
    mlp_bias = any(".mlp." in n and n.endswith(".bias") for n in shapes)
    t.settle("dim", dim, claims.dim)
    t.settle("head_dim", head_dim, claims.head_dim or claims.dim // claims.n_heads)
    _settle_kv_heads(t, n_kv_heads, kv_copies)
    t.settle("ffn_dim", ffn_dim, claims.ffn_dim)
    t.settle("vocab_size", vocab_size, claims.vocab_size)
    t.settle("tied", tied, claims.tied)
    t.settle("attention_bias", attention_bias, claims.attention_bias)
    t.settle("mlp_bias", mlp_bias, claims.mlp_bias)
    spec = ModelSpec(
        dim=dim,
        n_layers=claims.n_layers,
        n_heads=claims.n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=ffn_dim,
        vocab_size=vocab_size,
        norm_eps=claims.norm_eps,
        rope_theta=claims.rope_theta,
        rope_scaling=None,
        context=claims.context,
        tied=tied,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
    )
    _check_shapes(spec, shapes)
    spec = replace(spec, rope_scaling=resolve_scaling(claims, spec, same_head=same_head))
    return spec, tuple(t.conflicts)


def _settle_kv_heads(t: Truth, found: int, copies: int) -> None:
    """Key-value heads as the tensors have them, given how wide a head is.

    Where the width itself follows from the count of heads, a contradiction means that either
    count is wrong; which cannot be known, and the order of every row depends on it.
    """
    claims = t.claims
    if claims.n_kv_heads == found * copies:  # a count of copies is no lie
        return
    if claims.n_kv_heads not in (None, found) and claims.head_dim is None:
        raise BadInput(
            f"{claims.source}: {claims.n_heads} heads and {claims.n_kv_heads} key-value heads, but "
            f"by their shapes {_Q} has {claims.n_heads // found} rows for each of {_K}",
            hint="one of the two counts belongs to another model; put it right",
        )
    t.settle("n_kv_heads", found, claims.n_kv_heads or claims.n_heads)


def head_width(claims: Claims, q_rows: int) -> int:
    """Rows of one head. The permutation of every query depends on it, so doubt is an error."""
    if claims.q_dim not in (None, q_rows):
        raise BadInput(
            f"{claims.source}: dim {claims.q_dim}, but the files hold {q_rows} rows of {_Q}",
            hint="files of some ranks may be missing",
        )
    width = claims.head_dim or q_rows // claims.n_heads
    if width * claims.n_heads != q_rows or width % 2:
        raise BadInput(
            f"{claims.source}: {claims.n_heads} heads"
            + (f" of {claims.head_dim}" if claims.head_dim else "")
            + f" do not make the {q_rows} rows of {_Q}",
            hint="one of the two belongs to another model; the head count cannot be guessed",
        )
    return width


def kv_heads(claims: Claims, q_rows: int, kv_rows: int) -> int:
    """How many heads a key matrix of `kv_rows` rows holds."""
    width = head_width(claims, q_rows)
    if kv_rows == 0 or kv_rows % width:
        raise BadInput(
            f"{_K}: {kv_rows} rows are not a multiple of the head width {width} "
            f"({q_rows} rows for {claims.n_heads} heads)"
        )
    return kv_rows // width


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes[name]
    if len(shape) != 2:
        raise BadInput(f"{name}: expected a matrix, found shape {list(shape)}")
    return shape[0], shape[1]


def _check_shapes(spec: ModelSpec, shapes: Shapes) -> None:
    """BadInput names every tensor whose shape is not what the spec makes it, or that is missing."""
    problems = []
    expected = tensors(spec)
    missing = [n for n in expected if n not in shapes]
    if missing:
        problems.append(f"missing tensors: {listing(missing)}")
    for name, wanted in expected.items():
        found = shapes.get(name, wanted)
        if found != wanted:
            problems.append(f"{safe(name)}: expected shape {list(wanted)}, found {list(found)}")
    refuse_if(problems, hint="do all files belong to the same model?")
