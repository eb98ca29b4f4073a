"""What is asked of a model, and what every part of the answer needs of both."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatools.errors import UsageError
from llamatools.memory.engines import PLAIN, Engine
from llamatools.memory.figures import Report, estimate, exact
from llamatools.memory.formats import FORMATS, Format
from llamatools.memory.gpus import Gpu
from llamatools.memory.need import Deployment
from llamatools.memory.parallel import Shares, problems, shares
from llamatools.memory.parameters import Weight, cast
from llamatools.memory.subject import Subject
from llamatools.text import safe


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    contexts: tuple[int, ...] = ()
    """Tokens of each sequence, in any order; empty: the usual ones, up to the model's own."""
    batch: int = 1
    images: int = 1
    """Images in each sequence, where the model caches them apart."""
    kv_dtype: str | None = None
    """None: the type most weights are in."""
    weights_dtype: str | None = None
    """None: as stored."""
    engine: Engine = PLAIN
    tp: int = 1
    pp: int = 1
    gpus: tuple[Gpu, ...] = ()
    limit: int | None = None
    """Bytes a GPU may need."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", tuple(sorted(set(self.contexts))))
        least = {"batch": (self.batch, 1), "images": (self.images, 0), "tp": (self.tp, 1),
                 "pp": (self.pp, 1), "contexts": (min(self.contexts, default=1), 1)}  # fmt: skip
        wrong = [f"{what}: {n} is less than {low}" for what, (n, low) in least.items() if n < low]
        formats = {"kv_dtype": self.kv_dtype, "weights_dtype": self.weights_dtype}
        wrong += [
            f"{what}: {safe(name)} is none of {', '.join(FORMATS)}"
            for what, name in formats.items()
            if name is not None and name not in FORMATS
        ]
        if wrong:
            raise UsageError(wrong)


@dataclass
class Asked:
    """Everything that the parts of the report share."""

    subject: Subject
    question: Question
    weights: tuple[Weight, ...] = field(init=False)
    loose: str | None = field(init=False)
    """Why the weights' bytes are no exact figure; None where they are one."""
    deployment: Deployment = field(init=False)
    kv_format: Format = field(init=False)

    def __post_init__(self) -> None:
        s, q = self.subject, self.question
        a = s.architecture
        wrong = problems(a, q.tp, q.pp)
        if wrong:
            raise UsageError(wrong, hint="these divisions leave ranks with unequal heads")
        self.weights, self.loose = _in_format(s, q.weights_dtype)
        self.kv_format = q.engine.format(q.kv_dtype) if q.kv_dtype else _cacheable(s.format)
        self.deployment = Deployment(
            a, self.shares(q.tp), self.kv_format, q.tp, q.pp, q.engine,
            q.images if a.crosses else 0, a.spec.context or 0,
        )  # fmt: skip

    def shares(self, tp: int) -> Shares:
        s = self.subject
        found = shares(self.weights, s.architecture, tp, tp - 1, self.question.engine)
        if self.loose is None or s.stored is None or self.question.weights_dtype:
            return found
        whole = sum(w.nbytes for w in self.weights)
        return _scaled(found, s.stored.nbytes, whole)

    def bytes(self, value: int) -> Report:
        """A figure made of weights."""
        return exact(value) if self.loose is None else estimate(value, self.loose)

    def cached(self, value: int, context: int) -> Report:
        """A figure made of caches of so many tokens."""
        windows = [k.window for k in self.subject.architecture.layers if k.window]
        if not windows or context <= min(windows) or self.question.engine.keeps_windows:
            return exact(value)
        return estimate(value, "a chunk at most in layers that look back no further; engines "
                        "keep some more")  # fmt: skip


def _scaled(s: Shares, up: int, down: int) -> Shares:
    return Shares(
        tuple(n * up // down for n in s.layers),
        s.first * up // down, s.last * up // down, s.tied * up // down,
    )  # fmt: skip


def _cacheable(stored: Format) -> Format:
    """What a cache is kept in where nothing else is asked for: the weights' type, if it computes.

    Engines compute quantised models in 16 bits.
    """
    return stored if stored.name in ("fp32", "bf16", "fp16") else FORMATS["bf16"]


def _in_format(s: Subject, name: str | None) -> tuple[tuple[Weight, ...], str | None]:
    if name is not None:
        fmt = FORMATS[name]
        loose = None if fmt.reach == "all" else (
            f"{name} for the linear layers, 16 bits for the rest" if fmt.reach == "linear"
            else f"{name} for every matrix, 32 bits for vectors"
        )  # fmt: skip
        return cast(s.weights, fmt), loose
    return s.weights, s.loose
