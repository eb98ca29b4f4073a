"""Do two tokenizers give the same ids and the same text back? Both libraries are asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llamatools.tokenizer.encoders import Encoder

_BATCH = 2048


@dataclass(frozen=True)
class Mismatch:
    """A text on which the two sides differ."""

    text: str
    what: str
    """"ids" or "decoded text"."""
    a: tuple[int, ...]
    b: tuple[int, ...]
    decoded_a: str
    decoded_b: str

    @property
    def at(self) -> int:
        """The first place where the ids differ."""
        pairs = zip(self.a, self.b, strict=False)
        return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(self.a), len(self.b)))


@dataclass
class Comparison:
    """Counts per group of texts, and the first mismatch of each kind that was met."""

    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name of a group of texts -> (texts, mismatches)."""
    first: Mismatch | None = None
    specials: tuple[str, ...] = ()
    """Differences of special tokens and roles."""

    @property
    def texts(self) -> int:
        return sum(n for n, _ in self.groups.values())

    @property
    def mismatches(self) -> int:
        return sum(bad for _, bad in self.groups.values())

    @property
    def equal(self) -> bool:
        return not self.mismatches and not self.specials


def compare(a: Encoder, b: Encoder, groups: Iterable[tuple[str, Sequence[str]]]) -> Comparison:
    """Encode every text with both, and decode with both what they agree on."""
    result = Comparison()
    for name, texts in groups:
        bad = 0
        for at in range(0, len(texts), _BATCH):
            found = _mismatches(a, b, texts[at : at + _BATCH])
            bad += len(found)
            if found and result.first is None:
                result.first = min(found, key=lambda m: len(m.text))
        result.groups[name] = len(texts), bad
    return result


def _mismatches(a: Encoder, b: Encoder, texts: Sequence[str]) -> list[Mismatch]:
    out = []
    ids_a, ids_b = a.encode(texts), b.encode(texts)
    back_a, back_b = a.decode(ids_a), b.decode(ids_b)
    for text, x, y, p, q in zip(texts, ids_a, ids_b, back_a, back_b, strict=True):
        if x != y:
            out.append(Mismatch(text, "ids", tuple(x), tuple(y), p, q))
        elif p != q:
            out.append(Mismatch(text, "decoded text", tuple(x), tuple(y), p, q))
    return out
