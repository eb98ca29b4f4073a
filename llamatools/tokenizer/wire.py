"""Protocol buffers on the wire: a message as its fields, and back.

SentencePiece models are protocol buffers of one simple kind. Reading them here keeps each byte
that is not understood, checks every length before it is used, and ties nobody to one of the
mutually exclusive versions of the protobuf package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from llamatools.errors import BadInput

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10
"""Bytes: 64 bits, seven in each."""

Field = tuple[int, int, int | bytes]
"""(number, wire type, value). Fixed-width values stay bytes."""


def fields(data: bytes, where: str) -> Iterator[Field]:
    """The fields of a message, in order. BadInput where the bytes are no message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise BadInput(f"{where}: a field without number at byte {at}")
        if kind == VARINT:
            value, at = _varint(data, at, where)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at, where)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise BadInput(f"{where}: wire type {kind} at byte {at} is not one of protobuf's")
        if size > len(data) - at:
            raise BadInput(
                f"{where}: field {number} claims {size} bytes, {len(data) - at} are left"
            )
        yield number, kind, data[at : at + size]
        at += size


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field: integers as varints, floats in 32 bits, the rest with its length."""
    if isinstance(value, float):
        return _key(number, FIXED32) + struct.pack("<f", value)
    if isinstance(value, int):
        return _key(number, VARINT) + _encoded(value)
    data = value.encode() if isinstance(value, str) else value
    return _key(number, BYTES) + _encoded(len(data)) + data


def raw(number: int, kind: int, value: int | bytes) -> bytes:
    """A field as `fields` gave it."""
    if kind in (FIXED32, FIXED64):
        assert isinstance(value, bytes)
        return _key(number, kind) + value
    return field(number, value)


def float32(value: int | bytes) -> float | None:
    """The number in a field of 32 bits; None where the field is of another kind."""
    if not isinstance(value, bytes) or len(value) != 4:
        return None
    number: float = struct.unpack("<f", value)[0]
    return number


def signed(value: int) -> int:
    """A varint read as a signed 32-bit or 64-bit integer, both of which fill 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + _MAX_VARINT]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value & ((1 << 64) - 1), at + i + 1
    raise BadInput(f"{where}: a number at byte {at} does not end")


def _key(number: int, kind: int) -> bytes:
    return _encoded(number << 3 | kind)


def _encoded(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
