"""The model that is asked about, and what its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llamatools.family.identify import identify
from llamatools.memory import registry
from llamatools.memory.architecture import Architecture
from llamatools.memory.described import Described
from llamatools.memory.formats import Format
from llamatools.memory.parameters import Weight, weights


@dataclass(frozen=True)
class Stored:
    """What the files hold, by their headers."""

    files: int
    elements: int
    """As shaped in the files, copies included, buffers not."""
    by_dtype: dict[str, tuple[int, int]]
    """dtype -> (tensors, bytes)"""

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.by_dtype.values())


@dataclass(frozen=True)
class Subject:
    """The model that is asked about."""

    kind: str
    """"checkpoint", "config", "repository" or "name"."""
    name: str
    title: str
    official: str | None
    architecture: Architecture
    format: Format
    """What most weights are in, or would be."""
    weights: tuple[Weight, ...]
    """Each once, in the format it is stored in."""
    stored: Stored | None = None
    loose: str | None = None
    """Why `weights` are no exact account of the bytes: they are packed, unexpected, unknown."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: Mapping[str, object] = field(default_factory=dict)
    """Where a repository's files are from."""
    uncounted: str | None = None
    """Why `weights` are no exact count of the parameters: the files hold others."""


def described(source: str, d: Described) -> Subject:
    """A bare config: what it says, in the type it says."""
    title, key, context = _identity(d.architecture)
    spec = d.architecture.spec
    a = replace(d.architecture, spec=replace(spec, context=spec.context or context))
    warnings, loose = list(d.warnings), None
    if d.quantised:
        loose = f"as if in {d.format.name}: quantised bytes cannot be told without the files"
        warnings.append(
            f"the config says the weights are quantised ({d.quantised}); without the files their "
            f"bytes are unknown, and {d.format.name} is shown: see --weights-dtype"
        )
    return Subject(
        "config", source, title, key, a, d.format, weights(a, d.format), loose=loose,
        warnings=tuple(warnings), notes=d.notes,
    )  # fmt: skip


def _identity(a: Architecture) -> tuple[str, str | None, int | None]:
    """(title, official key, the context that such models are made for)"""
    if a.experts or a.crosses:
        known = registry.of_sizes(a)
        if known:
            return known.title, known.key, known.architecture.spec.context
        return ("unlisted Llama 4" if a.experts else "unlisted Llama 3.2 vision model"), None, None
    found = identify(a.spec, context_is_known=a.spec.context is not None)
    return found.title, found.official.key if found.official else None, found.context
