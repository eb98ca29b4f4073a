"""safetensors files that break a rule of the format, or hide something behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import MODEL, NORM, UP, Case, Cases, data, header, hf, put, simple
from support.forge import safetensors_bytes

FILE = "model.safetensors"
BYTES = len(data())


def changed(*words: str, **tensors: Any) -> Case:
    """Other entries in the header; names go with `.` for `__`."""
    named = {name.replace("__", "."): entry for name, entry in tensors.items()}
    return simple(lambda: hf(safetensors_bytes(header(**named), data())), FILE, *words)


def moved(name: str, **fields: Any) -> Case:
    return Case(lambda f: put(f, hf(_moved(name, fields))), (FILE, name))


def _moved(name: str, fields: dict[str, Any]) -> bytes:
    entry = header()[name] | fields
    return safetensors_bytes(header(**{name: entry}), data())


def spelled(edit: Callable[[bytes], bytes], *words: str) -> Case:
    """The header's text edited."""
    return simple(
        lambda: hf(safetensors_bytes(edit(json.dumps(header()).encode()), data())), FILE, *words
    )


def whole(edit: Callable[[bytes], bytes], *words: str) -> Case:
    """The whole file's bytes edited."""
    sound = safetensors_bytes(header(), data())
    return simple(lambda: hf(edit(sound)), FILE, *words)


def shift(name: str, by: int) -> dict[str, Any]:
    entry = header()[name]
    start, stop = entry["data_offsets"]
    return {name: entry | {"data_offsets": [start + by, stop + by]}}


def giant(folder: Path) -> None:
    """A file that is longer than its tensors by a terabyte of nothing."""
    put(folder, hf())
    with (folder / FILE).open("r+b") as f:
        f.truncate(10**12)


def entry(start: int, stop: int, shape: list[Any], dtype: str = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def inserted(item: bytes) -> Callable[[bytes], bytes]:
    """One more item at the head of the header."""
    return lambda text: b"{" + item + b"," + text[1:]


TWICE = json.dumps({NORM: header()[NORM]}).encode()[1:-1]

CASES: Cases = {
    "a header of 2^64 bytes": whole(lambda d: b"\xff" * 8 + d[8:], "18,446,744,073,709,551,615"),
    "a header of 100 MB and one byte": whole(
        lambda d: (100_000_001).to_bytes(8, "little") + d[8:], "at most 100,000,000"
    ),
    "a header beyond the end": whole(
        lambda d: (99_000_000).to_bytes(8, "little") + d[8:], "the file ends after"
    ),
    "a header cut in the middle": whole(
        lambda d: (500).to_bytes(8, "little") + d[8:], "not valid JSON"
    ),
    "a space before the header": spelled(lambda t: b" " + t, "does not start with '{'"),
    "a newline before the header": spelled(lambda t: b"\n" + t, "does not start with '{'"),
    "a BOM before the header": spelled(lambda t: b"\xef\xbb\xbf" + t, "not a checkpoint file"),
    "a NUL behind the header": spelled(lambda t: t + b"\0", "not valid JSON"),
    "two headers": spelled(lambda t: t + t, "not valid JSON"),
    "a header that is a list": spelled(lambda t: b"[" + t + b"]", "not a checkpoint file"),
    "17 MB of header": spelled(
        lambda t: t[:-1] + b',"__metadata__":{"a":"' + b"x" * 17_000_000 + b'"}}', "16 MB allowed"
    ),
    "a hundred thousand tensors of nothing": spelled(
        lambda t: (
            t[:-1]
            + b"".join(
                b',"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(100_000)
            )
            + b"}"
        ),
        "more than 500,000 values",
    ),
    "brackets without end": spelled(lambda t: b'{"a":' + b"[" * 100_000, "64 levels"),
    "a number of 100,000 digits": spelled(
        inserted(b'"a":' + b"1" * 100_000), "an integer of 100000 digits"
    ),
    "NaN": spelled(inserted(b'"a":NaN'), "NaN is not a JSON value"),
    "half a surrogate": spelled(inserted(b'"\\ud800":1'), "surrogate"),
    "not UTF-8": spelled(inserted(b'"\xff":1'), "not UTF-8"),
    "a tensor twice": spelled(inserted(TWICE), "more than once", NORM),
    "__metadata__ twice": spelled(
        inserted(b'"__metadata__":{},"__metadata__":{}'), "more than once", "__metadata__"
    ),
    "an offset twice": spelled(
        lambda t: t.replace(b'"shape"', b'"data_offsets": [0, 0], "shape"', 1), "more than once"
    ),
    "__metadata__ of numbers": simple(
        lambda: hf(safetensors_bytes({"__metadata__": {"a": 1}} | header(), data())),
        FILE,
        "__metadata__ a: not a string",
    ),
    "__metadata__ as a list": simple(
        lambda: hf(safetensors_bytes({"__metadata__": []} | header(), data())), "not an object"
    ),
    "an unknown type": moved(NORM, dtype="BF17"),
    "a type in small letters": moved(NORM, dtype="bf16"),
    "a type that is a number": moved(NORM, dtype=16),
    "a type of 4 bits": moved(NORM, dtype="F4"),
    "a shape with minus one": moved(NORM, shape=[-16]),
    "a shape of a float": moved(NORM, shape=[16.0]),
    "a shape of true": moved(NORM, shape=[True]),
    "a shape of a string": moved(NORM, shape="16"),
    "a shape of 65 axes": moved(NORM, shape=[1] * 64 + [16]),
    "a shape that overflows": moved(NORM, shape=[2**32, 2**32]),
    "a shape of 2^63": moved(NORM, shape=[2**63]),
    "offsets the wrong way round": moved(NORM, data_offsets=[64, 32]),
    "one offset": moved(NORM, data_offsets=[0]),
    "offsets that are strings": moved(NORM, data_offsets=["0", "32"]),
    "negative offsets": moved(NORM, data_offsets=[-32, 0]),
    "offsets of 2^64": moved(NORM, data_offsets=[2**64, 2**64 + 32]),
    "a size that does not follow": moved(UP, shape=[1, 1]),
    "a field too many": moved(NORM, strides=[1]),
    "a tensor that is a list": changed("found list", extra=[]),
    "a tensor that is null": changed("found NoneType", extra=None),
    "a field missing": changed("found dtype, shape", extra={"dtype": "F32", "shape": []}),
    "an overlap": simple(
        lambda: hf(safetensors_bytes(header(**shift(UP, -2)), data())), FILE, UP, "overlaps"
    ),
    "two tensors in one place": changed(
        "overlaps",
        extra=entry(0, 2 * MODEL.vocab * MODEL.dim, [MODEL.vocab, MODEL.dim]),
    ),
    "a hole": simple(
        lambda: hf(safetensors_bytes(header(**{NORM: ...}), data())), FILE, "unused bytes"
    ),
    "a hole in front": simple(
        lambda: hf(safetensors_bytes(header(**{"model.embed_tokens.weight": ...}), data())),
        "unused bytes between the header",
    ),
    "bytes behind the last tensor": whole(lambda d: d + b"\0", "1 bytes follow the last tensor"),
    "a terabyte behind the last tensor": Case(giant, (FILE, "bytes follow the last tensor")),
    "cut by one byte": whole(lambda d: d[:-1], "truncated"),
    "cut in the middle": whole(lambda d: d[: len(d) - BYTES // 2], "truncated"),
    "the header alone": whole(lambda d: d[: len(d) - BYTES], "truncated"),
    "seven bytes": whole(lambda d: d[:7], "not a checkpoint file"),
    "no bytes": whole(lambda d: b"", "an empty file"),
    "no tensors": simple(lambda: hf(safetensors_bytes({})), "neither Hugging Face's nor Meta's"),
    "a tensor beyond the end": changed("truncated", extra=entry(BYTES, BYTES + 2**40, [2**39])),
    "every kind of lie at once": changed(
        "[-1]", "Q4", "needs 8", a=entry(0, 4, [-1]), b=entry(0, 4, [1], "Q4"), c=entry(0, 4, [4])
    ),
    "a name of CI commands": changed(
        "unexpected tensors",
        **{"\n::error::pwned\x1b[31m\u202e##vso[task.x]": entry(BYTES, BYTES, [0])},
    ),
    "a name of a megabyte": changed(
        "unexpected tensors", **{"x" * 1_000_000: entry(BYTES, BYTES, [0])}
    ),
}
