"""An observer of a forward pass that keeps what a golden file holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llamatools.errors import BadInput
from llamatools.golden.digests import digest, stack, target_logprobs
from llamatools.golden.model import (
    SMALL_VOCABULARY,
    Digest,
    GoldenPrompt,
    Hidden,
    InMemory,
)
from llamatools.golden.sketch import Floats, as_numpy, sketch
from llamatools.reference.observe import Point, Prompt

if TYPE_CHECKING:
    import torch

BATCH = 2 << 20
"""Elements of logits that are looked at together, in 16 MB of float64."""


def batches(rows: range, columns: int) -> list[range]:
    """Rows in parts of at most BATCH elements."""
    step = max(1, BATCH // max(1, columns))
    return [range(i, min(i + step, rows.stop)) for i in range(rows.start, rows.stop, step)]


class Recorder:
    """Implements Observer; all prompts must have been shown before `finish`."""

    def __init__(self, prompts: Sequence[Prompt], *, all_full: bool = False) -> None:
        self._prompts = prompts
        self._all_full = all_full
        self._points: list[Point] = []
        self._hidden: list[list[tuple[Floats, Floats]]] = [[] for _ in prompts]
        self._digests: list[list[Digest]] = [[] for _ in prompts]
        self._targets: list[list[Floats]] = [[] for _ in prompts]
        self._full: list[list[NDArray[np.floating]]] = [[] for _ in prompts]
        self.dim: int | None = None
        self.vocab_size = 0
        self.dtype = ""

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(self._points)

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        values = as_numpy(x)
        self._check(prompt, str(point), values)
        if point not in self._points:
            self._points.append(point)
        self.dim = values.shape[1]
        rms = np.sqrt(np.square(values).mean(axis=1))
        self._hidden[prompt].append((sketch(values), rms))

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        self.vocab_size = x.shape[1]
        self.dtype = str(x.dtype).removeprefix("torch.")
        tokens = self._prompts[prompt].tokens
        for part in batches(rows, x.shape[1]):
            values = as_numpy(x[part.start - rows.start : part.stop - rows.start])
            self._check(prompt, "head", values)
            found = digest(values)
            following = tokens[part.start + 1 : part.stop + 1]
            self._digests[prompt].append(found)
            self._targets[prompt].append(target_logprobs(values, found.lse, following))
            # Copies: a view would keep all logits of the batch, or be the run's own memory.
            kept = np.float64 if self.dtype == "float64" else np.float32
            if self._all_full or self.vocab_size <= SMALL_VOCABULARY:
                self._full[prompt].append(values.astype(kept))
            elif part.stop == len(tokens):
                self._full[prompt].append(values[-1:].astype(kept))

    def _check(self, prompt: int, point: str, values: Floats) -> None:
        """NaN is no reference for anything."""
        if not np.isfinite(values).all():
            name = self._prompts[prompt].name
            raise BadInput(
                f"the model gives NaN or infinity at {point}, for the prompt {name}",
                hint="a type with a wider range may hold it: --dtype float32",
            )

    def finish(self) -> tuple[GoldenPrompt, ...]:
        return tuple(
            GoldenPrompt(
                prompt=prompt,
                digest=stack(self._digests[i]),
                targets=np.concatenate(self._targets[i]),
                full=InMemory(np.concatenate(self._full[i])),
                hidden=_hidden(self._hidden[i]),
            )
            for i, prompt in enumerate(self._prompts)
        )


def _hidden(found: list[tuple[Floats, Floats]]) -> Hidden | None:
    if not found:
        return None
    return Hidden(np.stack([s for s, _ in found]), np.stack([r for _, r in found]))
