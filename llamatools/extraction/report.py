"""What an extraction found, kept and lost; schemas/extract.json describes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt

from llamatools.checkpoint import Checkpoint
from llamatools.extraction.adapter import Adapter
from llamatools.extraction.choice import Extract, Use
from llamatools.extraction.pairs import warnings
from llamatools.extraction.work import Found, total_error
from llamatools.opening.naming import model_name
from llamatools.plan.build import DTYPES

SCHEMA = "urn:llamatools:extract:1"
_ERRORS = (0.5, 0.2, 0.1, 0.05, 0.01)
"""For which the report says what rank they need."""


def build_report(
    base: Checkpoint,
    tuned: Checkpoint,
    wishes: Extract,
    adapter: Adapter,
    found: Sequence[Found],
    files: Sequence[tuple[str, int, str]],
    notes: Sequence[str],
) -> dict[str, object]:
    """`files`: name, bytes and BLAKE3 of each."""
    different = [f for f in found if f.differs]
    with_factors = [f for f in different if f.use is Use.FACTORS]
    return {
        "$schema": SCHEMA,
        "base": _model(base),
        "tuned": _model(tuned),
        "rank": wishes.rank,
        "dtype": DTYPES[wishes.dtype].name,
        "difference": sqrt(sum(f.measured.energy for f in found)),
        "error": total_error(different),
        "error_of_factors": total_error(with_factors),
        "parameters": sum(v.rows * v.columns for v in adapter.values.values()),
        "equal": len(found) - len(different),
        "tensors": [_tensor(f) for f in different],
        "files": [{"name": n, "bytes": size, "blake3": digest} for n, size, digest in files],
        "conflicts": [
            f"{which}: {c}"
            for which, model in (("base", base), ("tuned", tuned))
            for c in model.conflicts
        ],
        "notes": list(notes),
    }


def _model(model: Checkpoint) -> dict[str, object]:
    return {
        "name": model_name(model.folder.path),
        "title": model.identity.title,
        "layout": model.layout.name,
    }


def _tensor(f: Found) -> dict[str, object]:
    out: dict[str, object] = {
        "name": f.pair.native,
        "shape": list(f.pair.tuned.shape),
        "stored": f.use.value,
        "difference": sqrt(f.measured.energy),
        "error": f.error,
    }
    if f.rank is None:
        return out
    return {**out, "rank": f.rank, "rank_for_error": needed_ranks(f)}


def needed_ranks(f: Found) -> list[dict[str, object]]:
    """The rank at which unrounded factors would have some errors; null where it is not known."""
    captured = list(accumulate(f.energies))
    energy = f.measured.energy
    return [
        {
            "error": error,
            "rank": next(
                (i for i, c in enumerate(captured, 1) if energy - c <= error * error * energy), None
            ),
        }
        for error in _ERRORS
    ]


def build_notes(
    base: Checkpoint, tuned: Checkpoint, adapter: Adapter, found: Sequence[Found]
) -> list[str]:
    """What whoever uses the adapter should know."""
    notes = [*warnings(base, tuned)]
    different = [f for f in found if f.differs]
    grown = [f for f in different if f.pair.grows]
    if any(f.use is Use.FULL for f in grown):
        rows = tuned.spec.vocab_size
        notes.append(
            f"the vocabulary has {rows:,} rows for the base's {base.spec.vocab_size:,}: PEFT loads "
            f"the adapter after base.resize_token_embeddings({rows})"
        )
    elif grown:
        notes.append(
            f"warning: the vocabulary has {tuned.spec.vocab_size:,} rows for the base's "
            f"{base.spec.vocab_size:,}, which is left out, and so are the tokenizer's files"
        )
    if adapter.keeps_tied:
        notes.append(
            "the head is the embedding: what the adapter holds of the one it holds of the other, "
            "too, as PEFT does"
        )
    if adapter.lora_bias:
        notes.append(_about_bias(base))
    if any(f.use is Use.OUT and f.pair.leaf == "bias" for f in different):
        notes.append(
            "biases are left out where their module has no factors, where --save-modules does not "
            "name them, and beside factors of the embedding"
        )
    return notes


def _about_bias(base: Checkpoint) -> str:
    text = "biases are those of lora_B (lora_bias)"
    if base.spec.attention_bias and base.spec.mlp_bias:
        return text
    return text + ": PEFT runs the adapter but cannot merge it, for modules that have no bias"
