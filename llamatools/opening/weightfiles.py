"""The ways weight files are named, and which names make one checkpoint together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamatools.errors import BadInput
from llamatools.text import listing

FETCH = "fetch the missing files"


@dataclass(frozen=True)
class Scheme:
    """A way of naming: one plain file, or numbered files `pattern` tells apart.

    Parts (-00001-of-00003) each hold some tensors; ranks (.00) each hold a piece of every tensor.
    """

    plain: str
    numbered: re.Pattern[str]
    ranked: bool = False

    @property
    def index(self) -> str:
        """The file that says which part holds which tensor."""
        return f"{self.plain}.index.json"

    def members(self, names: Iterable[str]) -> list[str]:
        """The numbered files among `names`, in order."""
        return sorted((n for n in names if self.numbered.fullmatch(n)), key=self._number)

    def _number(self, name: str) -> int:
        match = self.numbered.fullmatch(name)
        assert match is not None
        return int(match["number"])

    def check_complete(self, members: Sequence[str], where: str) -> None:
        """BadInput where numbers are missing, or parts of two checkpoints lie together."""
        found = [self._number(n) for n in members]
        if self.ranked:
            wanted = range(max(found) + 1)
        else:
            totals = {m["total"] for m in map(self.numbered.fullmatch, members) if m}
            if len(totals) > 1:
                raise BadInput(
                    f"{where}: holds parts of more than one checkpoint: {listing(members)}",
                    hint="move the parts of the other checkpoint away",
                )
            wanted = range(1, int(totals.pop()) + 1)
        times = Counter(found)
        twice = [n for n, number in zip(members, found, strict=True) if times[number] > 1]
        if twice:
            raise BadInput(
                f"{where}: more than one file of a number: {listing(twice)}",
                hint="move the ones away that do not belong to the checkpoint",
            )
        beyond = [n for n, number in zip(members, found, strict=True) if number not in wanted]
        if beyond:
            raise BadInput(f"{where}: numbered beyond their total: {listing(beyond)}")
        missing = [n for n in wanted if n not in times]
        if missing:
            raise BadInput(
                f"{where}: of {len(wanted)} numbered files, {listing(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing; found {listing(members)}",
                hint=FETCH,
            )


_PARTS = r"-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})"

# Preferred first: a folder that holds a model in two containers is read once.
SCHEMES = (
    Scheme("model.safetensors", re.compile(rf"model{_PARTS}\.safetensors")),
    Scheme("pytorch_model.bin", re.compile(rf"pytorch_model{_PARTS}\.bin")),
    Scheme("consolidated.pth", re.compile(r"consolidated\.(?P<number>[0-9]{2,3})\.pth"), True),
    Scheme(
        "consolidated.safetensors",
        re.compile(rf"consolidated{_PARTS}\.safetensors"),
    ),
    Scheme(
        "consolidated.safetensors",
        re.compile(r"consolidated\.(?P<number>[0-9]{2,3})\.safetensors"),
        True,
    ),
)

ENDINGS = (".safetensors", ".pth", ".bin", ".pt")


def is_ranked(name: str) -> bool:
    """Whether a file name is that of one model-parallel rank."""
    return any(s.ranked and s.numbered.fullmatch(name) for s in SCHEMES)


def scheme_of(name: str) -> Scheme | None:
    """The scheme by which a numbered file is named."""
    return next((s for s in SCHEMES if s.numbered.fullmatch(name)), None)


def weight_files(names: Iterable[str]) -> list[str]:
    """Every name that is a weight file's by some scheme."""
    return sorted(n for n in names if any(n == s.plain or s.numbered.fullmatch(n) for s in SCHEMES))
