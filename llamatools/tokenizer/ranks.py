"""Ranks files: `tokenizer.model` of Llama 3 and later. A line per token: base64, space, rank.

A token's rank is its id, and the order in which pairs are merged.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from llamatools.errors import BadInput
from llamatools.text import count, listing, safe
from llamatools.tokenizer.limits import MAX_TOKEN_BYTES, MAX_TOKENS


@dataclass(frozen=True)
class Ranks:
    """Tokens in order of rank, every single byte among them."""

    tokens: tuple[bytes, ...]

    @cached_property
    def rank(self) -> dict[bytes, int]:
        return {t: i for i, t in enumerate(self.tokens)}

    def to_bytes(self) -> bytes:
        return b"".join(b"%b %d\n" % (b64encode(t), i) for i, t in enumerate(self.tokens))

    def encode_piece(self, piece: bytes) -> list[int]:
        """Merge the bytes of a piece by rank, whether or not they are text."""
        rank = self.rank
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 1:
            pairs = [rank.get(parts[i] + parts[i + 1], MAX_TOKENS) for i in range(len(parts) - 1)]
            lowest = min(pairs)
            if lowest == MAX_TOKENS:
                break
            at = pairs.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [rank[p] for p in parts]


def looks_like_ranks(data: bytes) -> bool:
    """Whether the first line is one of a ranks file, however broken the rest may be."""
    line = data[:MAX_TOKEN_BYTES].lstrip().split(b"\n", 1)[0].rstrip(b"\r")
    token, space, rank = line.partition(b" ")
    return bool(space and token) and rank.strip().isdigit() and token.isascii()


def read_ranks(data: bytes, where: str) -> Ranks:
    """BadInput where lines are broken, ranks are not 0, 1, 2, ..., or a token stands twice."""
    lines = data.splitlines()
    if len(lines) > MAX_TOKENS:
        raise BadInput(f"{where}: more than {MAX_TOKENS:,} lines")
    found: dict[int, bytes] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = _parse(line)
        except ValueError as e:
            problems.append(f"{where}: line {number}: {e}: {safe(line.decode('latin-1'), 60)}")
            continue
        if rank in found:
            problems.append(f"{where}: line {number}: rank {rank} stands there twice")
        found[rank] = token
    if len(problems) > 10:
        problems[10:] = [f"{where}: and {count(len(problems) - 10, 'more problem')}"]
    if not problems and found and max(found) >= len(found):
        missing = sorted(set(range(len(found))) - found.keys())
        problems.append(f"{where}: ranks are missing: {listing(missing)}")
    if problems:
        raise BadInput(problems, hint="fetch the file again")
    return checked(tuple(found[i] for i in range(len(found))), where)


def _parse(line: bytes) -> tuple[bytes, int]:
    parts = line.split()
    if len(parts) != 2:
        raise ValueError("expected a token and a rank")
    try:
        token = b64decode(parts[0], validate=True)
    except binascii.Error:
        raise ValueError("broken base64") from None
    if not token or b64encode(token) != parts[0]:
        raise ValueError("broken base64")
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"a token of {len(token):,} bytes, more than any has")
    if not parts[1].isdigit() or len(parts[1]) > 9:
        raise ValueError("a rank that is no number")
    return token, int(parts[1])


def checked(tokens: tuple[bytes, ...], where: str) -> Ranks:
    """Tokens as ranks; BadInput where one stands twice, or a single byte is missing."""
    problems = []
    rank = {t: i for i, t in enumerate(tokens)}
    if len(rank) < len(tokens):
        twice = [t for t, n in Counter(tokens).items() if n > 1]
        problems.append(f"{where}: tokens that stand there twice: {listing(twice)}")
    absent = [b for b in range(256) if bytes([b]) not in rank]
    if absent:
        problems.append(f"{where}: single bytes are missing: {listing(absent)}")
    if problems:
        raise BadInput(problems, hint="fetch the file again")
    return Ranks(tokens)
