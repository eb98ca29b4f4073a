"""What a journal claims of a part, taken for what it says only where it has the types it is
written with: whoever forges a line makes its checksum right as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamatools.containers.base import InputFile
from llamatools.engine.outcome import Outcome

_HEX = frozenset("0123456789abcdef")
_DIGEST = 64
_CRC = 1 << 32
_MOST_BITS = 2048
"""Of an exact sum that a double holds when it is rounded."""


def check_outcome(outcome: Outcome) -> None:
    """Raises TypeError or ValueError where a field is not what a run finds out."""
    for digests in (outcome.tensors, outcome.before, outcome.files):
        for digest in _filled(digests):
            _expect(isinstance(digest, str) and len(digest) == _DIGEST and _HEX.issuperset(digest))
    for counts in _filled(outcome.counts):
        for n in _filled(counts):
            _expect(type(n) is int and n.bit_length() < _MOST_BITS)  # a sum may be below 0
    _whole(outcome.records_checked)
    _whole(outcome.records_partial)


def check_seen(seen: Any, files: Sequence[InputFile]) -> None:
    """Likewise what RecordChecks.seen gave for these files."""
    _expect(isinstance(seen, list))
    for (place, start, size, crc), name, pieces in seen:
        _expect(isinstance(name, str) and isinstance(pieces, list))
        end = files[_whole(place)].size
        for at, n, found in [(start, size, crc), *pieces]:
            _expect(_whole(at) + _whole(n) <= end and _whole(found) < _CRC)


def _filled(mapping: Any) -> Sequence[Any]:
    _expect(isinstance(mapping, dict))  # whose keys JSON makes text
    return list(mapping.values())


def _whole(n: Any) -> int:
    _expect(type(n) is int and n >= 0)  # True is an int, too
    return int(n)


def _expect(holds: bool) -> None:
    if not holds:
        raise ValueError("not what a run writes")
