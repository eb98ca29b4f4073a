"""Which prompts go through a layer together, and which of their rows through the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from llamatools.errors import BadInput
from llamatools.reference.observe import Prompt
from llamatools.spec import ModelSpec
from llamatools.text import safe

TOKENS = 1024
"""Go through a half of a layer together: enough that converting its matrices costs little."""
SHOWN = 128 << 20
"""Bytes of logits that are shown at once."""
LOGITS_ON_CPU, LOGITS = SHOWN, 1 << 30
"""Bytes of logits that the head is read once for."""
_LAST_POSITION = 1 << 24
"""fp32 counts no further."""

T = TypeVar("T")


def pack(items: Sequence[T], size: Callable[[T], int], limit: int) -> list[list[T]]:
    """Runs of items that are together no larger than the limit, or one item each."""
    out: list[list[T]] = []
    total = limit + 1
    for item in items:
        total += size(item)
        if total > limit:
            out.append([])
            total = size(item)
        out[-1].append(item)
    return out


def together(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Numbers of prompts that go through half a layer side by side."""
    return pack(range(len(prompts)), lambda i: len(prompts[i].tokens), TOKENS)


@dataclass(frozen=True)
class Rows:
    """Some positions of a prompt, which go through the head by a product of their own."""

    prompt: int
    rows: range


def head_passes(prompts: Sequence[Prompt], row_bytes: int, *, on_cpu: bool) -> list[list[Rows]]:
    """What each reading of the head is for. Where a prompt is cut depends on nothing else."""
    height = max(1, SHOWN // row_bytes)
    cut = [
        Rows(i, range(start, min(start + height, len(p.tokens))))
        for i, p in enumerate(prompts)
        for start in range(0, len(p.tokens), height)
    ]
    limit = (LOGITS_ON_CPU if on_cpu else LOGITS) // row_bytes
    return pack(cut, lambda r: len(r.rows), max(limit, height))


def check_prompts(prompts: Sequence[Prompt], spec: ModelSpec) -> None:
    """BadInput lists every prompt that the model cannot be given."""
    problems = [
        f"prompt {i} ({safe(p.name)}): {problem}"
        for i, p in enumerate(prompts)
        for problem in prompt_problems(p, spec.vocab_size)
    ]
    if not prompts:
        problems = ["there are no prompts"]
    if problems:
        raise BadInput(problems[:20])


def prompt_problems(prompt: Prompt, vocab_size: int) -> list[str]:
    """Why no model of that vocabulary can be given a prompt."""
    tokens, positions = prompt.tokens, prompt.positions
    out = []
    if not tokens:
        out.append("has no tokens")
    if len(tokens) != len(positions):
        out.append(f"has {len(tokens)} tokens and {len(positions)} positions")
    strange = [t for t in tokens if not 0 <= t < vocab_size]
    if strange:
        out.append(f"token {strange[0]}, and the vocabulary has {vocab_size:,}")
    if any(b <= a for a, b in pairwise(positions)):
        out.append("positions do not grow")
    if positions and not 0 <= min(positions) <= max(positions) < _LAST_POSITION:
        out.append(f"positions are not within 0 .. {_LAST_POSITION - 1}")
    return out
