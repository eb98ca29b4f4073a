"""Perplexity of a model on a text: exp of the mean of -log p of every token.

The text goes through the model's own tokenizer and is cut into windows, each after the token that
begins a text. The first token of a window counts where there is such a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from llamatools.checkpoint import Checkpoint
from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, UsageError
from llamatools.golden.digests import lse, target_logprobs
from llamatools.golden.prompts import contiguous, find_words
from llamatools.golden.record import batches
from llamatools.golden.sketch import as_numpy
from llamatools.reference.observe import Observer, Point, Prompt
from llamatools.text import nbytes, safe
from llamatools.verifying.rows import finite_rows

if TYPE_CHECKING:
    import torch

WINDOW = 2048
_MAX_FILE = 64 << 20
_LARGEST = 700.0
"""exp of more is beyond a double."""


@dataclass(frozen=True)
class Perplexity:
    tokens: int
    """Those that count."""
    loss: float | None
    """Mean of -log p, in nats; None where a logit is NaN or infinite."""
    perplexity: float | None
    left_out: int
    """Tokens at the end of the text that --text-tokens left out."""


@dataclass(frozen=True)
class Text:
    windows: tuple[Prompt, ...]
    left_out: int


def read_text(path: Path, checkpoint: Checkpoint, limit: int) -> Text:
    """The first `limit` tokens of a text in windows of as many as the model's context has."""
    file = InputFile(path)
    try:
        if file.size > _MAX_FILE:
            raise BadInput(
                f"{safe(path)}: {nbytes(file.size)} of text; {nbytes(_MAX_FILE)} at most"
            )
        data = file.read(0, file.size)
    finally:
        file.close()
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        raise BadInput(f"{safe(path)}: not UTF-8: {e.reason} at byte {e.start}") from None
    words, notes = find_words(checkpoint)
    if words is None:
        why = f": {notes[0]}" if notes else ""
        raise UsageError(
            f"{safe(checkpoint.path)}: --text needs the model's tokenizer beside its weights{why}"
        )
    tokens = words.encoder.encode([text])[0]
    size = checkpoint.spec.vocab_size
    if max(tokens, default=0) >= size:
        raise BadInput(f"{safe(path)}: the tokenizer gives ids that the {size:,} rows do not have")
    begin = [] if words.bos is None else [words.bos]
    context = checkpoint.spec.context or checkpoint.identity.context
    step = max(2, min(context, WINDOW)) - len(begin)
    kept = tokens[:limit]
    cut = [kept[i : i + step] for i in range(0, len(kept), step)]
    windows = [contiguous(f"text {i}", [*begin, *part]) for i, part in enumerate(cut)]
    scored = tuple(w for w in windows if len(w.tokens) > 1)
    if not scored:
        raise BadInput(f"{safe(path)}: holds no text to measure")
    return Text(scored, len(tokens) - len(kept))


class Scorer:
    """Implements Observer."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._loss = 0.0
        self._tokens = 0

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        """Says nothing of probabilities."""

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        tokens = self._text.windows[prompt].tokens
        for part in batches(rows, x.shape[1]):
            values = as_numpy(x[part.start - rows.start : part.stop - rows.start])
            following = tokens[part.start + 1 : part.stop + 1]
            if not finite_rows(values).all():
                self._loss = float("inf")
                continue
            self._loss -= float(target_logprobs(values, lse(values), following).sum())
            self._tokens += len(following)

    def finish(self) -> Perplexity:
        mean = self._loss / max(1, self._tokens)
        if not isfinite(mean):
            return Perplexity(self._tokens, None, None, self._text.left_out)
        shown = exp(mean) if mean < _LARGEST else None
        return Perplexity(self._tokens, mean, shown, self._text.left_out)


class Several:
    """Implements Observer: prompts dealt to observers, each of which counts its own from 0."""

    def __init__(self, observers: Sequence[tuple[int, Observer]]) -> None:
        """(number of prompts, observer)"""
        self._of = [(o, i) for n, o in observers for i in range(n)]

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        observer, i = self._of[prompt]
        observer.hidden(i, point, x)

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        observer, i = self._of[prompt]
        observer.logits(i, rows, x)
