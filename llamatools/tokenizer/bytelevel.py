"""The alphabet in which tokenizer.json writes bytes: one printable character for each byte.

Printable characters of Latin-1 stand for themselves; the others follow from U+0100 on, in order.
"""

from __future__ import annotations

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
_TO_TEXT = {b: chr(b) for b in _PRINTABLE} | {b: chr(256 + i) for i, b in enumerate(_OTHERS)}
_TO_BYTE = {ord(c): b for b, c in _TO_TEXT.items()}


def to_text(token: bytes) -> str:
    """Bytes in the alphabet."""
    return token.decode("latin-1").translate(_TO_TEXT)


def to_bytes(text: str) -> bytes:
    """The bytes that `text` spells; ValueError where it holds a character of no byte."""
    try:
        return bytes([_TO_BYTE[ord(c)] for c in text])
    except KeyError as e:
        raise ValueError(f"U+{e.args[0]:04X} stands for no byte") from None
