"""What a golden file holds: prompts, what a model made of them, and which model that was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llamatools.golden.sketch import Floats
from llamatools.reference.observe import Point, Prompt
from llamatools.spec import ModelSpec

TOP_K = 64
SMALL_VOCABULARY = 4096
"""Up to which the logits of every position are kept in full."""


class Logits(Protocol):
    """Rows of logits that may lie in a file still."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def read(self, start: int, stop: int) -> Floats:
        """(stop - start, vocabulary)"""
        ...


@dataclass(frozen=True)
class InMemory:
    """Logits at hand; implements Logits."""

    values: NDArray[np.floating]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def read(self, start: int, stop: int) -> Floats:
        return self.values[start:stop].astype(np.float64)


@dataclass(frozen=True)
class Digest:
    """What is kept of the logits of n positions; k is TOP_K, or the vocabulary if that is less."""

    top_ids: NDArray[np.int64]
    """(n, k), the largest logit first."""
    top_values: Floats
    """(n, k)"""
    lse: Floats
    """(n,) log of the sum of exp of all logits"""
    mean: Floats
    """(n,)"""
    square: Floats
    """(n,) mean of the squares"""
    sketch: Floats
    """(n, 32)"""


@dataclass(frozen=True)
class Hidden:
    """Hidden states of a prompt at every point of the file."""

    sketch: Floats
    """(points, n, 32)"""
    rms: Floats
    """(points, n)"""


@dataclass(frozen=True)
class GoldenPrompt:
    """A prompt and its answer. Of every position there is a digest, or the logits in full."""

    prompt: Prompt
    digest: Digest | None
    targets: Floats | None
    """(n - 1,) log-probabilities of the tokens that follow"""
    full: Logits | None
    """Of the last positions: all of them, the last one, or none."""
    hidden: Hidden | None

    @property
    def first_full(self) -> int:
        """The first position whose logits are there in full."""
        n = len(self.prompt.tokens)
        return n if self.full is None else n - self.full.shape[0]


@dataclass(frozen=True)
class Generator:
    """What computed the logits."""

    name: str
    versions: Mapping[str, str]

    @property
    def own(self) -> bool:
        """It is this package: good for what was before a change and after it, and no more."""
        return self.name == OWN


OWN = "llamatools"


@dataclass(frozen=True)
class Noise:
    """How far the generator is from the same computation in a wider type."""

    rms: float
    """rms(difference) / std(logits)"""
    mean_kl: float
    p95_kl: float
    wider: str
    """That type, as torch names it."""


@dataclass(frozen=True)
class Source:
    """The model that the logits are of, as far as it is known."""

    title: str | None = None
    spec: ModelSpec | None = None
    fingerprint: str | None = None
    tokenizer: str | None = None
    """Digest of the tokenizer, as `tokenizer inspect` prints it."""
    weights: str | None = None
    """Type of most weights, by its safetensors code."""


@dataclass(frozen=True)
class Golden:
    """Everything but the name of the file."""

    vocab_size: int
    dim: int | None
    """Length of hidden states; None where there are none."""
    dtype: str
    """In which the logits were computed, as torch names it."""
    source: Source
    generator: Generator
    noise: Noise | None
    points: tuple[Point, ...]
    """At which hidden states are kept, in the order of the forward pass."""
    prompts: tuple[GoldenPrompt, ...]
    notes: tuple[str, ...] = ()
    plain: bool = False
    """Of a plain file, which tells nothing of the model."""

    @property
    def positions(self) -> int:
        return sum(len(p.prompt.tokens) for p in self.prompts)
