"""Another tokenizer for a model: its vocabulary's rows, its files, its ids in the configs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.checkpoint import Checkpoint
from llamatools.conversion import prepare
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.errors import BadInput, UsageError
from llamatools.plan.build import Options
from llamatools.plan.carry import open_for
from llamatools.plan.passes.vocabulary import NewRows, row_table
from llamatools.prepared import Prepared
from llamatools.tokenizer.rows import Match, match_rows


@dataclass(frozen=True)
class Swap:
    """What tokenizer a model is to get."""

    tokenizer: str
    """Path of the new one."""
    old_tokenizer: str | None = None
    """Path of the one the model was trained with; None: the one beside the weights."""
    pad_to: int = 1
    """The number of rows is a multiple of this."""


def prepare_swap(
    source: Checkpoint,
    out: str | Path,
    swap: Swap,
    options: Options,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> Prepared:
    """Plan the swap of a tokenizer and check everything that can be checked before writing."""
    if swap.pad_to < 1:
        raise UsageError("--pad-to-multiple-of must be positive")
    old = open_for(source, swap.old_tokenizer)
    new = open_for(source, swap.tokenizer)
    rows = source.spec.vocab_size
    if old.tokenizer.size > rows:
        raise BadInput(
            f"the old tokenizer has {old.tokenizer.size:,} tokens, the model {rows:,} rows",
            hint="--old-tokenizer names the one the model was trained with",
        )
    size = -(-new.tokenizer.size // swap.pad_to) * swap.pad_to
    match = match_rows(old.tokenizer, new.tokenizer, size)
    report = {"rows_before": rows, "rows": size, "extends": match.extends, **match.origins}
    return prepare(
        _with_rows(source, match),
        out,
        replace(options, tokenizer=swap.tokenizer),
        jobs=jobs,
        max_memory=max_memory,
        force=force,
        amend=lambda plan: replace(plan, vocabulary=report),
    )


def _with_rows(source: Checkpoint, match: Match) -> Checkpoint:
    """The checkpoint as if its vocabulary had always been the new one."""
    table = row_table(match.sources)
    values = {
        name: NewRows(value, name, table) if name in (EMBEDDING, HEAD) else value
        for name, value in source.values.items()
    }
    return replace(source, values=values, spec=replace(source.spec, vocab_size=len(match.sources)))
