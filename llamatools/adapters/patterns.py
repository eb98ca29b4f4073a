"""Regular expressions from an adapter's config, matched in linear time.

Python's own matcher can be made to run for years by a short pattern; RE2 cannot. It lacks what
needs backtracking (lookaround, references), which is an error then and not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from llamatools.errors import BadInput, Unsupported
from llamatools.text import count, safe

Match = Callable[[str], Any]
"""A function that says whether a whole string matches."""

_PLAIN = re.compile(r"[\w.]*", re.ASCII)
_MAX_LENGTH = 10_000
_MAX_PATTERNS = 2_000
"""As many as a model of two hundred layers has modules with factors."""
_MAX_LENGTHS = 200_000
"""Of all patterns of one setting."""
_MEMORY = 8 << 20
"""What RE2 may take for the patterns of one setting, if not for ..."""
_LEAST_MEMORY = 32 << 10
"""... what each may, however many there are: enough for any name."""


def compiled(pattern: str, where: str) -> Match:
    return _compiled(pattern, where, _MEMORY)


def every(patterns: Collection[str], where: str) -> Callable[[str], Match]:
    """Compiles any of the patterns of one setting, which share what memory there is."""
    length = sum(map(len, patterns))
    if len(patterns) > _MAX_PATTERNS or length > _MAX_LENGTHS:
        raise BadInput(
            f"{where}: {count(len(patterns), 'pattern')} of {length:,} characters, more than the "
            f"{_MAX_PATTERNS:,} of {_MAX_LENGTHS:,} allowed"
        )
    memory = max(_LEAST_MEMORY, _MEMORY // max(1, len(patterns)))
    return lambda pattern: _compiled(pattern, where, memory)


def first_match(patterns: Collection[str], module: str, where: str) -> str | None:
    """The first pattern that the end of a module's path matches, whole names at a time."""
    match = every(patterns, where)
    for pattern in patterns:
        # Most are mere names; but even the dots of those may stand for anything.
        named = _PLAIN.fullmatch(pattern) and f".{module}".endswith(f".{pattern}")
        if named or match(rf"(.*\.)?({pattern})")(module):
            return pattern
    return None


def _compiled(pattern: str, where: str, memory: int) -> Match:
    found = _cached(pattern, memory)
    if isinstance(found, str):
        raise Unsupported(
            f"{where}: {safe(pattern, 80)}: not a pattern that can be matched in bounded time: "
            f"{safe(found)}",
            hint="write it without lookaround and references, or list the modules by name",
        )
    return found


@lru_cache(maxsize=2 * _MAX_PATTERNS)
def _cached(pattern: str, memory: int) -> Match | str:
    """What matches, or why nothing does."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    try:
        if len(pattern) > _MAX_LENGTH:
            raise re2.error("too long")
        match: Match = re2.compile(pattern, options).fullmatch
    except (re2.error, UnicodeError) as e:
        reason = e.args[0] if e.args else "not a regular expression"
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    return match
