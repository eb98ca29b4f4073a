"""From files to canonical expressions: names matched against a table, shards put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llamatools.canonical import BY_TEMPLATE
from llamatools.containers.base import StoredTensor
from llamatools.containers.problems import refuse_if
from llamatools.errors import BadInput
from llamatools.expr.nodes import Expr, Read, ToHalves, agree, concat
from llamatools.layouts.table import Layout, Row
from llamatools.text import listing, safe

Copies = tuple[StoredTensor, ...]
"""One native tensor as the files hold it: one entry per model-parallel rank."""


@dataclass(frozen=True)
class Matched:
    """Native tensors under canonical names, and what the files hold besides."""

    tensors: Mapping[str, tuple[Row, Copies]]
    dropped: tuple[str, ...]


def match(
    layout: Layout,
    n_layers: int,
    optional: Callable[[str], bool],
    stored: Mapping[str, Copies],
) -> Matched:
    """Match names against the table, both ways. BadInput lists all missing and unexpected names.

    `optional` says of a canonical name whether the model may lack it.
    """
    known = {native: (canonical, row) for canonical, native, row in layout.expand(n_layers)}
    buffers = layout.buffer_names(n_layers)
    missing = [n for n, (c, _) in known.items() if n not in stored and not optional(c)]
    unexpected = [n for n in stored if n not in known and n not in buffers]
    problems = []
    if missing:
        problems.append(f"missing {len(missing)} of {len(known)} tensors: {listing(missing)}")
    if unexpected:
        where = sorted({stored[n][0].file.name for n in unexpected})
        problems.append(f"unexpected tensors: {listing(unexpected)} in {listing(where)}")
    if problems:
        raise BadInput(problems, hint="is every file of the checkpoint there, and from one model?")
    return Matched(
        {known[n][0]: (known[n][1], copies) for n, copies in stored.items() if n in known},
        tuple(n for n in stored if n in buffers),
    )


def check_copies(matched: Matched, uneven: Iterable[str]) -> None:
    """BadInput where ranks hold pieces that cannot belong to one tensor.

    Pieces are of one type and shape, with as many axes as the tensor has; only tensors named
    in `uneven` may differ in their rows.
    """
    problems = []
    may_differ = set(uneven)
    for canonical, (row, copies) in matched.tensors.items():
        first = copies[0]
        axes = len(BY_TEMPLATE[row.canonical].dims)
        if len(first.shape) != axes or not first.numel:
            problems.append(
                f"{safe(first.name)}: expected {axes} axes, none of them empty, "
                f"found shape {list(first.shape)}"
            )
        for other in copies[1:]:
            same_rows = first.shape == other.shape
            same_columns = first.shape[1:] == other.shape[1:]
            loose = row.axis == "rows" and canonical in may_differ
            if first.dtype != other.dtype or not (same_columns if loose else same_rows):
                problems.append(
                    f"{safe(first.name)}: {safe(first.file.name)} holds "
                    f"{first.dtype} {list(first.shape)}, {safe(other.file.name)} holds "
                    f"{other.dtype} {list(other.shape)}"
                )
                break
    refuse_if(problems, hint="the files do not belong to the same model")


def join(canonical: str, row: Row, copies: Copies, heads: int | None, kv_repeat: int) -> Expr:
    """The canonical tensor from its shards. `kv_repeat`: files that hold the same kv head."""
    parts = tuple(Read(c) for c in copies)
    native = {
        "copy": lambda: agree(canonical, parts),
        "rows": lambda: concat(0, parts),
        "columns": lambda: concat(1, parts),
        "kv": lambda: concat(
            0,
            tuple(
                agree(canonical, parts[i : i + kv_repeat]) for i in range(0, len(parts), kv_repeat)
            ),
        ),
    }[row.axis]()
    return native if heads is None else ToHalves(native, heads)
