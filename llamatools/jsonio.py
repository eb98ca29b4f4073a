"""The one way JSON enters and leaves: strict on the way in, deterministic on the way out.

Python's own parser takes more than JSON has (NaN, duplicate keys, integers of any length) and
answers deep nesting with RecursionError. Files are read here as if their author were an enemy.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from llamatools.errors import BadInput
from llamatools.text import listing, nbytes, safe

MAX_DEPTH = 64
MAX_DIGITS = 20
"""As many as 2^64 has; Python's conversion of longer digit strings takes quadratic time."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Limits:
    """How much JSON is read. A value takes up to 200 bytes of memory, a byte of text up to 10."""

    nbytes: int
    values: int


TOKENIZER = Limits(100_000_000, 5_000_000)
"""A tokenizer.json of 400,000 merges has less than half of either."""
SETTINGS = Limits(16_000_000, 500_000)
"""Configs, and lists of a checkpoint's tensors: fifty thousand of them."""

_STRING = re.compile(rb'"[^"]*"')
_BRACKETS = b"{}[]"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEP = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}

_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])"  # a first half without a second
    rb"|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"  # a second half without a first
)


def load_json(
    data: bytes, where: str, limits: Limits = TOKENIZER, *, max_digits: int = MAX_DIGITS
) -> object:
    """The value that `data` spells.

    `where` names the source in messages. Raises BadInput for anything that is not strict JSON
    in UTF-8 without a BOM: duplicate keys, NaN and Infinity, integers of too many digits,
    floats that overflow, lone surrogates, more than 64 levels of nesting, more values or bytes
    than `limits` allow.
    """
    try:
        return json.loads(
            _checked_text(data, limits),
            object_pairs_hook=_object,
            parse_int=partial(_integer, max_digits=max_digits),
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as e:
        raise BadInput(
            f"{safe(where)}: not valid JSON: {e.msg} at line {e.lineno} column {e.colno}"
        ) from None
    except BadInput as e:
        raise BadInput(f"{safe(where)}: {e}") from None


def load_json_object(
    data: bytes, where: str, limits: Limits = TOKENIZER, *, max_digits: int = MAX_DIGITS
) -> dict[str, object]:
    """As load_json; raises BadInput too where the value is not an object."""
    value = load_json(data, where, limits, max_digits=max_digits)
    if not isinstance(value, dict):
        raise BadInput(f"{safe(where)}: expected a JSON object, found {_KINDS[type(value)]}")
    return value


def dump_json(obj: object) -> bytes:
    """Two spaces of indent, keys in the order given, UTF-8, a newline at the end."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _checked_text(data: bytes, limits: Limits) -> str:
    """What can be told before parsing; the parser never sees what would hurt it."""
    if len(data) > limits.nbytes:
        raise BadInput(
            f"{nbytes(len(data))} of JSON, more than the {nbytes(limits.nbytes)} allowed"
        )
    if data.startswith(_BOM):
        raise BadInput("starts with a byte order mark (BOM), which JSON forbids")
    # Escaped backslashes go first, so that each backslash left escapes the byte after it.
    plain = data.replace(rb"\\", b"__")
    if _LONE_SURROGATE.search(plain):
        raise BadInput("holds half of a surrogate pair, which is no character")
    outside = _STRING.sub(b"", plain.replace(rb"\"", b""))
    if sum(map(outside.count, (b",", b"{", b"["))) > limits.values:
        raise BadInput(f"more than {limits.values:,} values")
    if _depth(outside) > MAX_DEPTH:
        raise BadInput(f"nested more than {MAX_DEPTH} levels deep")
    del plain, outside
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise BadInput(f"not UTF-8: {e.reason} at byte {e.start}") from None


def _depth(outside: bytes) -> int:
    """How deep the brackets of JSON without its strings are nested."""
    brackets = outside.translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]
        raise BadInput(f"an object holds a key more than once: {listing(twice)}")
    return out


def _integer(digits: str, max_digits: int) -> int | float:
    if len(digits.lstrip("-")) > max_digits:
        raise BadInput(f"an integer of {len(digits.lstrip('-'))} digits: {safe(digits, 20)}")
    return -0.0 if digits == "-0" else int(digits)  # no integer, and no size, is minus zero


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadInput(f"a number beyond what a double holds: {safe(digits, 20)}")
    return value


def _constant(name: str) -> object:
    raise BadInput(f"{name} is not a JSON value")
