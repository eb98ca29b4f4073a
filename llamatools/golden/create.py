"""Golden files of our own making, and facts for those that others made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from llamatools._version import __version__
from llamatools.checkpoint import Checkpoint
from llamatools.golden.model import OWN, Generator, Golden, Source
from llamatools.golden.prompts import Prompts, find_words
from llamatools.golden.record import Recorder
from llamatools.reference.observe import Observer, Prompt

Report = dict[str, object]
Run = Callable[[Checkpoint, Sequence[Prompt], Observer], Report]
"""Shows an observer the forward pass of a checkpoint; returns how it was run."""


def source_of(checkpoint: Checkpoint, fingerprint: str | None = None) -> Source:
    """What is known of the model that logits are of."""
    words, _ = find_words(checkpoint)
    return Source(
        title=checkpoint.identity.title,
        spec=checkpoint.spec,
        fingerprint=fingerprint,
        tokenizer=words.digest if words else None,
        weights=checkpoint.dtype.name,
    )


def own_versions() -> dict[str, str]:
    return {OWN: __version__, **{name: version(name) for name in ("torch", "numpy")}}


def kernels(ran: Report) -> dict[str, str]:
    """What decides the bits of a forward pass beside the model; empty where `ran` does not tell."""
    settings = ran.get("environment")
    if not isinstance(settings, Mapping):
        return {}
    found = {name: settings.get(name) for name in ("torch", "kernels")}
    found["device"] = ran.get("device")
    return {} if None in found.values() else {name: str(v) for name, v in found.items()}


def record(
    checkpoint: Checkpoint, prompts: Prompts, run: Run, *, fingerprint: str | None = None
) -> tuple[Golden, Report]:
    """The golden file of a checkpoint, by our own forward pass; and how that was run."""
    recorder = Recorder(prompts.prompts)
    ran = run(checkpoint, prompts.prompts, recorder)
    golden = Golden(
        vocab_size=recorder.vocab_size,
        dim=recorder.dim,
        dtype=recorder.dtype,
        source=source_of(checkpoint, fingerprint),
        generator=Generator(OWN, own_versions() | kernels(ran)),
        noise=None,
        points=recorder.points,
        prompts=recorder.finish(),
        notes=prompts.notes,
    )
    return golden, ran
