"""Logits that others made, as a golden file: digested, and with what is known of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llamatools.golden.digests import digest, stack, target_logprobs
from llamatools.golden.model import (
    SMALL_VOCABULARY,
    Digest,
    Generator,
    Golden,
    GoldenPrompt,
    InMemory,
    Source,
)
from llamatools.golden.record import batches
from llamatools.golden.sketch import Floats


def import_golden(
    plain: Golden, source: Source, name: str, versions: Mapping[str, str], dtype: str | None
) -> Golden:
    """A plain file with its facts. `dtype` None: the type in which the logits are stored."""
    return replace(
        plain,
        source=source,
        generator=Generator(name, versions),
        dtype=dtype or plain.dtype,
        plain=False,
        prompts=tuple(_digested(p) for p in plain.prompts),
    )


def _digested(p: GoldenPrompt) -> GoldenPrompt:
    """Of large vocabularies the last row stays in full, and digests stand for the others."""
    if p.full is None or p.full.shape[1] <= SMALL_VOCABULARY:
        return p
    n, vocabulary = p.full.shape
    digests: list[Digest] = []
    targets: list[Floats] = []
    for part in batches(range(n), vocabulary):
        rows = p.full.read(part.start, part.stop)
        digests.append(digest(rows))
        following = p.prompt.tokens[part.start + 1 : part.stop + 1]
        targets.append(target_logprobs(rows, digests[-1].lse, following))
    return replace(
        p,
        digest=stack(digests),
        targets=np.concatenate(targets),
        full=InMemory(p.full.read(n - 1, n)),
    )
