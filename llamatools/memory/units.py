"""Tokens and bytes in words, and back. GPUs are sold in GB and hold GiB; here it is always GiB."""

from __future__ import annotations

import re

_TOKENS = re.compile(r"([1-9]\d{0,11})([km]?)", re.I)
_STEPS = {"": 1, "k": 1 << 10, "m": 1 << 20}
MAX_TOKENS = 1 << 30


def parse_tokens(text: str) -> int | None:
    """'8k' is 8,192 tokens and '1m' 1,048,576, as contexts are named; None where it is neither."""
    match = _TOKENS.fullmatch(text.strip())
    n = int(match[1]) * _STEPS[match[2].lower()] if match else 0
    return n if 0 < n <= MAX_TOKENS else None


def tokens(n: int) -> str:
    """The shortest text that `parse_tokens` reads back as exactly `n`."""
    for unit in ("m", "k"):
        if n and n % _STEPS[unit] == 0:
            return f"{n // _STEPS[unit]}{unit}"
    return str(n)


def about_tokens(n: int) -> str:
    """At most 5 characters: '812', '97.3k', '131k', '1.31m', rounded down."""
    for unit in ("m", "k"):
        step = _STEPS[unit]
        if n >= step:
            whole = n // step
            digits = 0 if whole >= 100 else 1 if whole >= 10 else 2
            scale: int = 10**digits
            floored = n * scale // step / scale
            return f"{floored:.{digits}f}".rstrip("0").rstrip(".") + unit if digits else (
                f"{whole}{unit}"
            )  # fmt: skip
    return str(n)


def gib(n: int) -> str:
    """Bytes in binary units, three digits: '15 GiB', '128 KiB'."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 999.5 else f"{value:,.0f} TiB"
