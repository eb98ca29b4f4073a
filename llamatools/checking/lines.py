"""The lines of a list of checksums: out of its encoding, and out of a signature around it.

PowerShell writes UTF-16 where a list is made with `>`. A list that is signed in the clear has its
lines between a heading and the signature; who signed it is for gpg to tell.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamatools.errors import BadInput

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
_END = "-----END PGP SIGNATURE-----"
_HEADER = re.compile(r"[A-Za-z][A-Za-z-]*: .*", re.DOTALL)


def decoded(data: bytes) -> str:
    """The text. Raises BadInput where it is not in the encoding that its mark says."""
    if not data.startswith(_UTF16):
        return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as e:
        raise BadInput(f"begins with the mark of UTF-16 and is none: {e}") from e


@dataclass(frozen=True)
class Lines:
    """The lines of a text, those of a signature in the clear left out."""

    every: Sequence[str]

    @property
    def signed(self) -> bool:
        return any(line.rstrip() == _SIGNED for line in self.every)

    @property
    def cut(self) -> bool:
        """Whether a signature does not end, so that lines may be gone as well."""
        marks = [m for m in map(str.rstrip, self.every) if m in (_SIGNED, _SIGNATURE, _END)]
        whole = [_SIGNED, _SIGNATURE, _END]
        return self.signed and marks != whole * (len(marks) // len(whole))

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Each with its number."""
        within: str | None = None  # the mark that was met last
        heading = False
        for number, raw in enumerate(self.every, 1):
            line, mark = raw.rstrip("\r"), raw.rstrip()
            if mark == _SIGNED or (within == _SIGNED and mark == _SIGNATURE):
                within, heading = mark, True
            elif within == _SIGNATURE:
                within = None if mark == _END else within
            else:
                heading = heading and within is not None and bool(_HEADER.fullmatch(line))
                if not heading:
                    yield number, line.removeprefix("- ") if within else line
