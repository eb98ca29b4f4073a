"""Which faults of very many are tried: all of them where time allows, else some of every sort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from forked import run
from injected import Effect, Fault
from scenes import Stage

T = TypeVar("T")


def some(cases: Sequence[T], most: int | None) -> list[T]:
    """At most so many, evenly spread, the first and the last among them."""
    if most is None or len(cases) <= most:
        return list(cases)
    if most == 1:
        return [cases[len(cases) // 2]]
    return [cases[i * (len(cases) - 1) // (most - 1)] for i in range(most)]


def counted(stage: Stage, force: bool) -> Counter[tuple[str, str]]:
    """How often a run without faults makes each kind of call, by the folder it is in."""
    stage.put(stage.old if force else {})
    ran = run(words_of(stage, force), stage.root)
    assert ran.code == 0, ran.err
    return Counter((c.path.split("/")[0], c.name) for c in ran.calls)


def words_of(stage: Stage, force: bool) -> list[str]:
    return [*stage.words, "--force"] if force else stage.words


def faults(
    counts: Counter[tuple[str, str]],
    kinds: Sequence[str],
    effects: Sequence[Effect],
    below: str,
    most: int | None,
) -> Iterator[Fault]:
    """Each kind's calls, one after the other, with the effects in turn: once, or for good.

    With `most` None every call there is.
    """
    for kind in kinds:
        for i, n in enumerate(some(range(counts[below, kind]), most)):
            effect = effects[(i + n) % len(effects)]
            yield Fault(effect, (kind,), n, (i + n // len(effects)) % 2 == 1, below)
