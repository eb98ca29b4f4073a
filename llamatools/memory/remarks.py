"""Warnings and notes on an answer, as tables: whether it is so, and the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llamatools.memory.parallel import vocabulary
from llamatools.memory.question import Asked
from llamatools.text import count

Remarks = tuple[tuple[bool, Callable[[], str]], ...]


def warnings(asked: Asked, contexts: Sequence[int]) -> list[str]:
    """What may surprise."""
    q, a = asked.question, asked.subject.architecture
    native, kv = a.spec.context, a.spec.n_kv_heads
    beyond = [c for c in contexts if native and c > native]
    offered = q.engine.formats
    stages = asked.deployment.stages
    table: Remarks = (
        (bool(beyond), lambda: (
            f"context {', '.join(f'{c:,}' for c in beyond)}: beyond the {native:,} tokens the "
            "model was made for"
        )),
        (q.tp > kv, lambda: (
            f"--tp {q.tp}: {count(kv, 'key-value head')} for {q.tp} ranks, so each is held "
            f"{q.tp // kv} times; ranks beyond {kv} save no KV memory"
        )),
        (bool(offered) and asked.kv_format.name not in offered, lambda: (
            f"{q.engine.name}: a KV cache in {asked.kv_format.name} is none of those it has "
            f"({', '.join(offered)})"
        )),
        (len({len(s.layers) for s in stages}) > 1, lambda: (
            f"--pp {q.pp}: stages of unequal size, "
            f"{', '.join(str(len(s.layers)) for s in stages)} layers; the fullest decides"
        )),
    )  # fmt: skip
    return [words() for true, words in table if true]


def notes(asked: Asked, longest: int) -> list[str]:
    a, q = asked.subject.architecture, asked.question
    native = a.spec.context
    padded = vocabulary(a.spec.vocab_size, q.tp, q.engine)
    table: Remarks = (
        (bool(native) and longest > (native or 0), lambda: (
            f"longest is what memory allows; the model was made for {native:,} tokens"
        )),
        (padded > a.spec.vocab_size, lambda: (
            f"{q.engine.name} pads the vocabulary to {padded:,} rows"
        )),
        (bool(a.windowed), lambda: (
            f"{a.windowed} of {a.spec.n_layers} layers keep one chunk of tokens at most; engines "
            "keep some more while they read a prompt"
        )),
        (bool(a.crosses), lambda: (
            f"{count(q.images, 'image')} a sequence: {a.image_tokens:,} tokens each in "
            f"{a.crosses} cross-attention layers"
        )),
        (bool(a.tower), lambda: "the image encoder counts as resident; what it computes with "
            "does not"),
    )  # fmt: skip
    return [words() for true, words in table if true]
