"""The most that each limit lets through: what must be read, or refused, at no great cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bad_pickles import text
from kit import Files, bin_folder, config, data, header, hf, meta, params, put
from support.forge import Entry, FakeTensor, pickled, safetensors_bytes, torch_bytes, zip_bytes

SMILE = "\U0001f600".encode()
"""One such character makes every other one of a string take four bytes."""


def long_text(size: int) -> bytes:
    return b"x" * (size - len(SMILE)) + SMILE


def header_of(body: bytes) -> Callable[[], Files]:
    return lambda: hf(safetensors_bytes(b"{" + body + b"}"))


def program(opcodes: bytes) -> Callable[[], Files]:
    return lambda: bin_folder(torch_bytes(b"\x80\x04" + opcodes + b"."))


def numbered(item: bytes, n: int) -> bytes:
    return b",".join(b'"%d":' % i + item for i in range(n))


def tensors(n: int) -> bytes:
    """A dict of tensors that share all but their names."""
    call, end = pickled(FakeTensor()).removeprefix(b"\x80\x02"), b"."
    return (
        b"}("
        + text("first")
        + call.removesuffix(end)
        + b"r\xff\xff\0\0"
        + b"".join(text(str(i)) + b"j\xff\xff\0\0" for i in range(n))
        + b"u"
    )


def entries(n: int) -> list[Entry]:
    return [Entry("m/data.pkl", pickled({})), *(Entry(f"m/data/{i}") for i in range(n))]


EMPTY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
WRONG = b'{"dtype":"??","shape":[0],"data_offsets":[0,0]}'

HEAVY: dict[str, Callable[[], Files]] = {
    "99 MB of padding": lambda: hf(
        safetensors_bytes(json.dumps(header()).encode().ljust(99_000_000), data())
    ),
    "a header of one long text": header_of(
        b'"__metadata__":{"a":"' + long_text(15_900_000) + b'"}'
    ),
    "a header of many texts": header_of(
        b'"__metadata__":{' + numbered(b'"' + long_text(100) + b'"', 140_000) + b"}"
    ),
    "70,000 tensors": header_of(numbered(EMPTY, 70_000)),
    "70,000 wrong tensors": header_of(numbered(WRONG, 70_000)),
    "a shape of 400,000 numbers": header_of(b'"a":[' + b",".join([b"[]"] * 200_000) + b"]"),
    "a pickle of one long text": program(text(long_text(15_900_000).decode())),
    "a pickle of many texts": program(b"(" + text(long_text(40).decode()) * 330_000 + b"t"),
    "a pickle of memoized dicts": program(b"}\x94" * 499_000),
    "a pickle of nested tuples": program(b")" + b"\x85" * 999_990),
    "a pickle of long integers": program((b"\x8a\x10" + b"\x7f" * 16) * 800_000),
    "a pickle of 300,000 tensors": program(tensors(300_000)),
    "99,000 entries": lambda: bin_folder(
        zip_bytes(entries(99_000), zip64={}, end={"n": 0xFFFF, "here": 0xFFFF})
    ),
    "a config of one long text": lambda: hf(
        config_json=config()[:-1] + b',"a":"' + long_text(15_900_000) + b'"}'
    ),
    "a config of many values": lambda: hf(
        config_json=config()[:-1] + b',"a":[' + b",".join([b"{}"] * 240_000) + b"]}"
    ),
    "a config of a wrong object": lambda: hf(
        config_json=config(model_type=...)[:-1] + b',"model_type":[' + b"1," * 499_000 + b"1]}"
    ),
    "10^9 layers": lambda: hf(config_json=config(num_hidden_layers=10**9)),
    "Meta: 10^9 layers": lambda: {**meta(2), "params.json": params(n_layers=10**9)},
    "an index of 200,000 tensors": lambda: {
        "config.json": config(),
        "model-00001-of-00002.safetensors": safetensors_bytes({}),
        "model-00002-of-00002.safetensors": safetensors_bytes({}),
        "model.safetensors.index.json": b'{"weight_map":{'
        + numbered(b'"model-00001-of-00002.safetensors"', 200_000)
        + b"}}",
    },
}


SOUND = {"99 MB of padding", "a config of one long text", "a config of many values"}
"""Those that are read; the others are refused."""


def build(name: str, folder: Path) -> Path:
    put(folder, HEAVY[name]())
    return folder
