"""Settings in YAML: read as PyYAML's safe loader reads them, or refused."""

from __future__ import annotations

import time

import pytest
import yaml

from llamatools.errors import BadInput
from llamatools.yamlio import MAX_BYTES, load_yaml_object

VALUES = {
    "whole": 12, "minus": -3, "real": 2.5, "small": 1e-5, "on": True, "off": False, "none": None,
    "text": "a: b # c", "lines": "a\nb: 1\n", "number in quotes": "12", "empty": "", "é": "\u2028",
    "list": [1, [2, {"a": []}]], "mapping": {"a": {"b": 1}}, "long": "x" * 300,
}  # fmt: skip


@pytest.mark.parametrize("style", [{}, {"allow_unicode": True}, {"default_flow_style": True}])
def test_what_pyyaml_wrote(style: dict[str, bool]) -> None:
    assert load_yaml_object(yaml.dump(VALUES, **style).encode(), "s.yaml") == VALUES


def test_numbers_of_every_base() -> None:
    data = b"a: 0xFF\nb: 0b101\nc: 017\nd: -1_000\ne: 18446744073709551615\nf: '1:30'\ng: 1:99"
    values = {"a": 255, "b": 5, "c": 15, "d": -1000, "e": 2**64 - 1, "f": "1:30", "g": "1:99"}
    assert load_yaml_object(data, "s.yaml") == values == yaml.safe_load(data)


def test_a_value_that_stands_for_another() -> None:
    assert load_yaml_object(b"a: &x 1.5\nb: *x", "s.yaml") == {"a": 1.5, "b": 1.5}


LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
)
BAD = {
    "not UTF-8": (b"a: \xff", "s.yaml: not UTF-8: invalid start byte at byte 3"),
    "too long": (b"a" * (MAX_BYTES + 1), "more than the 1 MB allowed"),
    "many values": (b"a: [" + b"1," * 30_000 + b"]", "more than 20,000 values"),
    "deep": (b"a: " + b"[" * 65 + b"]" * 65, "nested more than 64 levels deep"),
    "very deep": (b"[" * 15_000, "nested more than 64 levels deep"),
    "a list twice": (b"a: &x [1]\nb: *x", "line 2 stands for a list or a mapping elsewhere"),
    "a billion laughs": (LAUGHS.encode(), "line 2 stands for a list or a mapping elsewhere"),
    "a list in itself": (b"a: &x [*x]", "line 1 stands for a list or a mapping elsewhere"),
    "lone alias": (b"a: 1\nb: *x", "line 2 stands for"),
    "key twice": (b"a: 1\nb: 2\na: 3", "line 3 holds a key for the second time: a"),
    "key twice inside": (b"x:\n  a: 1\n  'a': 3", "line 3 holds a key for the second time: a"),
    "no class is made": (b"a: !!python/object/apply:os.getcwd []", "line 1 holds a tag, which no"),
    "two documents": (b"a: 1\n---\nb: 2", "expected a single document"),
    "unclosed": (
        b'a: "x',
        "found unexpected end of stream at line 1 column 6",
    ),
    "tab": (b"a:\n\tb: 1", "not valid YAML"),
    "control character": (b"a: \x1b[2J", "not valid YAML"),
    "digits": (b"a: " + b"1" * 5_000, "holds a value that cannot be read"),
    "digits of base 16": (b"a: 0x" + b"f" * 5_000, "an integer of 5002 digits: 0xffff"),
    "digits of base 2": (b"a: -0b" + b"1_" * 900, "an integer of 902 digits"),
    "a digit too many": (b"a: 123456789012345678901", "an integer of 21 digits"),
    "base 60": (b"a: 1\nb: 1:30", "line 2 holds a number in base 60: 1:30"),
    "base 60, real": (b"a: 1:30.5", "line 1 holds a number in base 60: 1:30.5"),
    "much of base 60": (b"a: 1" + b":1" * 400_000, "line 1 holds a number in base 60"),
    "much of base 60, real": (b"a: 1" + b":1" * 400_000 + b".5", "holds a number in base 60"),
    "no digits": (b"a: 0x_", "holds a value that cannot be read"),
    **{
        f"tag {t}": (b"x: 1\na: " + t.encode(), "line 2 holds a tag")
        for t in (
            '!!int ""',
            '!!int "_"',
            "!!int 1",
            '!!float ""',
            '!!bool "x"',
            '!!timestamp "x"',
            "!!binary aGk=",
            "!!set {a: null}",
            "!!omap [a: 1]",
            "!!str 1",
            "! 1",
            "!own 1",
        )
    },
    "tag of a key": (b"!!str a: 1", "line 1 holds a tag"),
    "a lone =": (b"a: =", "not valid YAML"),
    "no such day": (b"a: 2024-02-30", "holds a value that cannot be read"),
    "list": (b"[1]", "expected a mapping whose keys are text"),
    "empty": (b"", "expected a mapping whose keys are text"),
    "number as key": (b"1: 2", "expected a mapping whose keys are text"),
    "list as key": (
        b"? [a]\n: 1",
        "while constructing a mapping, found unhashable key",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refuses(data: bytes, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput) as refusal:
        load_yaml_object(data, "s.yaml")
    assert words in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
    assert time.monotonic() - began < 10
