from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatools.errors import BadInput
from llamatools.jsonio import Limits, dump_json, load_json, load_json_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20) + 1, 10**20 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_reads_what_it_writes(value: object) -> None:
    data = dump_json(value)
    assert load_json(data, "x") == value
    assert load_json(json.dumps(value).encode(), "x") == value  # with every escape there is


@given(st.binary(max_size=60))
def test_bytes_are_read_as_python_reads_them_or_refused(data: bytes) -> None:
    try:
        value = load_json(data, "x")
    except BadInput:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"{} x", "Extra data at line 1 column 4"),
        (b"{'a': 1}", "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'{"a": 1, "b": 2, "a": 1}', "more than once: a"),
        (b'[{"b": {"a": 1, "\\u0061": 1}}]', "more than once: a"),
        (b"[NaN]", "NaN is not a JSON value"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"[1e999]", "beyond what a double holds"),
        (b"1" * 21, "an integer of 21 digits"),
        (b"-" + b"9" * 1_000_000, "an integer of 1000000 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'"\\ud83d\\\\\\ude00"', "surrogate"),
        (b'"\\ud83d\\ude00\\ude00"', "surrogate"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 levels"),
        (b"[" * 1_000_000, "nested more than 64 levels"),
        (b'{"a":' * 1_000_000, "nested more than 64 levels"),
        (b'"\\\\"' + b"[" * 1_000_000, "nested more than 64 levels"),
        (b"[" + b"[]," * 2_500_000 + b"0]", "more than 5,000,000 values"),
        (b'["\x00"]', "Invalid control character"),
    ],
    ids=lambda v: v[:24].decode("latin-1") if isinstance(v, bytes) else None,
)
def test_refuses(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=r"^there: ") as caught:
        load_json(data, "there")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_takes_what_only_looks_wrong() -> None:
    assert load_json(b"[" * 64 + b"]" * 64, "x")
    assert load_json(b'"\\\\ud800 [[ \\" {{"', "x") == '\\ud800 [[ " {{'
    assert load_json(b'"\\ud83d\\ude00"', "x") == "\U0001f600"
    assert load_json(b'{"a": "' + b"[" * 100_000 + b'"}', "x")
    assert load_json(b" 18446744073709551615\n", "x") == 2**64 - 1
    assert type(load_json(b"-0", "x")) is float


def test_works_near_the_recursion_limit() -> None:
    def dig(depth: int) -> object:
        return dig(depth - 1) if depth else load_json(b"[[[[1]]]]", "x")

    assert dig(sys.getrecursionlimit() // 2) == [[[[1]]]]


def test_size_limit() -> None:
    few = Limits(3, 1)
    assert load_json(b"[1]", "x", few) == [1]
    with pytest.raises(BadInput, match="more than the 3 B allowed"):
        load_json(b"[12]", "x", few)
    with pytest.raises(BadInput, match="more than 1 values"):
        load_json(b"[,]", "x", few)


def test_object_expected() -> None:
    assert load_json_object(b'{"a": []}', "x") == {"a": []}
    for data, kind in (
        (b"[]", "an array"),
        (b"null", "null"),
        (b"1", "a number"),
        (b'"a"', "a str"),
    ):
        with pytest.raises(BadInput, match=f"expected a JSON object, found {kind}"):
            load_json_object(data, "x")


def test_source_name_is_escaped() -> None:
    with pytest.raises(BadInput, match=r"^:\\:error:\\:\\x1b"):
        load_json(b"", "::error::\x1b")


def test_dump_is_fixed() -> None:
    assert (
        dump_json({"b": [1, "é"], "a": {}})
        == '{\n  "b": [\n    1,\n    "é"\n  ],\n  "a": {}\n}\n'.encode()
    )
    with pytest.raises(ValueError, match="JSON"):
        dump_json(float("nan"))
