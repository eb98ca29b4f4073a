"""Regular expressions from an adapter's config, matched in linear time.

Python's own matcher can be made to run for years by a short pattern; RE2 cannot. It lacks what
needs backtracking (lookaround, references), which is an error then and not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from llamatools.errors import Unsupported
from llamatools.text import safe

_PLAIN = re.compile(r"[\w.]*", re.ASCII)
_MAX_LENGTH = 10_000


@cache
def compiled(pattern: str, where: str) -> Callable[[str], object | None]:
    """A function that says whether a whole string matches."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        if len(pattern) > _MAX_LENGTH:
            raise re2.error("too long")
        match: Callable[[str], object | None] = re2.compile(pattern, options).fullmatch
    except (re2.error, UnicodeError) as e:
        reason = e.args[0] if e.args else "not a regular expression"
        raise Unsupported(
            f"{where}: {safe(pattern, 80)}: not a pattern that can be matched in bounded time: "
            f"{safe(reason.decode(errors='replace') if isinstance(reason, bytes) else reason)}",
            hint="write it without lookaround and references, or list the modules by name",
        ) from e
    return match


def first_match(patterns: Iterable[str], module: str, where: str) -> str | None:
    """The first pattern that the end of a module's path matches, whole names at a time."""
    for pattern in patterns:
        # Most are mere names; but even the dots of those may stand for anything.
        named = _PLAIN.fullmatch(pattern) and f".{module}".endswith(f".{pattern}")
        if named or compiled(rf"(.*\.)?({pattern})", where)(module):
            return pattern
    return None
