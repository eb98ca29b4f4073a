"""Protocol buffers on the wire: what is read comes back, and what is broken is said to be."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.vocabularies import MISTRAL, MISTRAL_V3, sentencepiece_model

from llamatools.errors import BadInput
from llamatools.tokenizer import wire

FILES = {"mistral": MISTRAL, "mistral-v3": MISTRAL_V3, "small": None}


def read(data: bytes) -> list[wire.Field]:
    return list(wire.fields(data, "here"))


def read_or_none(data: bytes) -> list[wire.Field] | None:
    try:
        return read(data)
    except BadInput:
        return None


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_comes_back_byte_for_byte(name: str) -> None:
    path = FILES[name]
    data = path.read_bytes() if path else sentencepiece_model()
    assert b"".join(wire.raw(*f) for f in read(data)) == data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a", "does not end"),
        (b"\x0a\x05abcd", "field 1 claims 5 bytes, 4 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "claims 9223372036854775807 bytes"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "claims 18446744073709551615 bytes"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "does not end"),
        (b"\x80" * 1000, "does not end"),
        (b"\x08", "does not end"),
        (b"\x15abc", "claims 4 bytes, 3 are left"),
        (b"\x11abcdefg", "claims 8 bytes, 7 are left"),
        (b"\x00\x01", "without number"),
        (b"\x02\x00", "without number"),
        (b"\x0b", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0e", "wire type 6"),
        (b"\x0f", "wire type 7"),
    ],
)
def test_broken_bytes_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as e:
        read(data)
    assert str(e.value).startswith("here: ")


@given(st.binary(max_size=200))
@example(b"")
def test_random_bytes_are_fields_or_bad_input(data: bytes) -> None:
    found = read_or_none(data)
    if found is None:
        return
    # Numbers may have been spelled in more bytes than they need; their values stay.
    again = b"".join(wire.raw(*f) for f in found)
    assert read(again) == found
    assert len(again) <= len(data)


_NUMBERS = st.integers(1, 2**29 - 1)
_BITS = st.integers(0, 2**64 - 1)
_ONE = st.one_of(
    st.tuples(_NUMBERS, st.just(wire.VARINT), _BITS),
    st.tuples(_NUMBERS, st.just(wire.BYTES), st.binary(max_size=300)),
    st.tuples(_NUMBERS, st.just(wire.FIXED32), st.binary(min_size=4, max_size=4)),
    st.tuples(_NUMBERS, st.just(wire.FIXED64), st.binary(min_size=8, max_size=8)),
)


@given(st.lists(_ONE))
def test_fields_come_back(fields: list[wire.Field]) -> None:
    assert read(b"".join(wire.raw(*f) for f in fields)) == fields


def test_a_message_cut_anywhere_is_shorter_or_refused() -> None:
    """Never is a value made up from what is not there."""
    whole = wire.field(1, "text") + wire.field(2, -1.5) + wire.field(3, 300) + wire.field(4, -1)
    fields = read(whole)
    kept = [found for end in range(len(whole)) if (found := read_or_none(whole[:end])) is not None]
    assert kept == [fields[:n] for n in range(len(fields))]


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers(value: int) -> None:
    [(_, kind, found)] = read(wire.field(7, value))
    assert kind == wire.VARINT and isinstance(found, int) and wire.signed(found) == value


@given(st.floats(width=32))
def test_floats(value: float) -> None:
    [(_, _, found)] = read(wire.field(7, value))
    number = wire.float32(found)
    assert number == value or (number is not None and math.isnan(number) and math.isnan(value))


def test_floats_of_another_kind_are_none() -> None:
    assert wire.float32(1) is None
    assert wire.float32(b"12345678") is None


def test_damaged_files() -> None:
    """Whatever one byte becomes: fields, or BadInput."""
    rng, data, refused = random.Random(1), bytearray(sentencepiece_model()), 0
    for _ in range(300):
        at = rng.randrange(len(data))
        old, data[at] = data[at], rng.randrange(256)
        refused += read_or_none(bytes(data)) is None
        data[at] = old
    assert 0 < refused < 300
