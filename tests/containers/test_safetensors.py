from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from forge import Refused, entry, fill, safetensors_bytes

from llamatools.containers import safetensors_write
from llamatools.containers.base import Container, FileLayout, InputFile
from llamatools.containers.detect import open_container
from llamatools.containers.safetensors_read import read_safetensors
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.dtypes import BF16, BY_NAME, F32
from llamatools.errors import BadInput, NotRepresentable

ALL = [(d.name, d, (3, 5)) for d in BY_NAME.values()] + [
    ("empty", F32, (2, 0, 3)),
    ("scalar", BF16, ()),
    ('odd "näme"\n', F32, (1,)),
]
META = {"format": "pt", "ü": "\n"}


def payloads() -> list[bytes]:
    """Bytes 0 and 1 in turn: legal for every dtype, bool included."""
    sizes = [s.stop - s.start for s in safetensors_layout(ALL, {}).slots]
    return [bytes(i % 2 for i in range(n)) for n in sizes]


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    layout: FileLayout = safetensors_layout(ALL, META)
    path = fill(layout, payloads(), tmp_path / "x")
    assert layout.slots[0].start % 8 == 0
    assert not layout.needs_crc
    with safetensors.safe_open(path, "pt") as f:
        assert f.metadata() == META
        assert set(f.keys()) == {name for name, _, _ in ALL}
        for (name, dtype, shape), payload in zip(ALL, payloads(), strict=True):
            tensor = f.get_tensor(name)
            assert tensor.dtype == getattr(torch, dtype.torch)
            assert tuple(tensor.shape) == shape
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == payload


def test_reads_what_is_written(tmp_path: Path) -> None:
    path = fill(safetensors_layout(ALL, META), payloads(), tmp_path / "x")
    found = open_container(path)
    assert found.kind == "safetensors"
    assert found.metadata == META
    assert [(t.name, t.dtype, t.shape) for t in found.tensors.values()] == ALL
    for t, payload in zip(found.tensors.values(), payloads(), strict=True):
        assert t.contiguous
        assert t.record is None
        assert found.file.read(t.offset, t.nbytes) == payload


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.float16).reshape(2, 3),
        "a": torch.arange(5, dtype=torch.uint8),
        "e": torch.zeros(0, 7),
        "f8": torch.ones(3).to(torch.float8_e5m2),
    }
    path = tmp_path / "x"
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    found = open_container(path)
    assert found.metadata == {"format": "pt"}
    assert set(found.tensors) == set(tensors)
    offsets = [t.offset for t in found.tensors.values()]
    assert offsets == sorted(offsets), "file order"
    for name, tensor in tensors.items():
        t = found.tensors[name]
        assert t.shape == tuple(tensor.shape)
        assert found.file.read(t.offset, t.nbytes) == bytes(tensor.view(torch.uint8).flatten())
    assert found.tensors["b"].strides == (3, 1)


def test_layout_is_deterministic_and_empty_is_legal(tmp_path: Path) -> None:
    assert safetensors_layout(ALL, META).literal(0, []) == safetensors_layout(ALL, META).header
    path = fill(safetensors_layout([], {}), [], tmp_path / "x")
    assert safetensors.torch.load_file(path) == {}
    assert open_container(path).tensors == {}


def test_layout_refuses_what_the_format_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotRepresentable, match="__metadata__"):
        safetensors_layout([("__metadata__", F32, ())], {})
    with pytest.raises(NotRepresentable, match="second tensor named a"):
        safetensors_layout([("a", F32, ()), ("a", F32, ())], {})
    monkeypatch.setattr(safetensors_write, "MAX_HEADER", 1000)
    with pytest.raises(NotRepresentable, match=r"1\.01 kB; the format allows 1 kB"):
        safetensors_layout([("x" * 950, F32, ())], {})


def test_null_for_the_metadata(open_bytes: Callable[[bytes], Container]) -> None:
    """As MLX writes where it was given none; the library takes it too."""
    data = safetensors_bytes({"__metadata__": None, "w": entry(0, 4, [1])}, bytes(4))
    assert [name for name, _ in safetensors.deserialize(data)] == ["w"]
    found = open_bytes(data)
    assert (found.metadata, list(found.tensors)) == ({}, ["w"])


def test_sound_oddities(open_bytes: Callable[[bytes], Container]) -> None:
    """Zero-size tensors anywhere, spaces behind the header, any key order, no metadata."""
    header = {
        "z": entry(4, 4, [0, 2**40]),
        "b": entry(4, 8, [1, 1]),
        "y": entry(0, 0, [0]),
        "a": entry(0, 4, []),
        "x": entry(8, 8, [0]),
    }
    raw = json.dumps(header).encode() + b"   \n"
    assert list(open_bytes(safetensors_bytes(raw, bytes(8))).tensors) == ["y", "a", "z", "b", "x"]


def one(**changes: object) -> bytes:
    """One tensor of 4 bytes, some field of it changed."""
    return safetensors_bytes({"w": entry(0, 4, [1]) | changes}, bytes(4))


TWICE = b'{"w":%b,"w":%b}' % ((json.dumps(entry(0, 4, [1])).encode(),) * 2)
BAD = {
    "truncated header": (
        (1000).to_bytes(8, "little") + b"{",
        "1,000 bytes, but the file ends",
    ),
    "header not JSON": (safetensors_bytes(b"{x}"), "(header): not valid JSON"),
    "duplicate tensor": (
        safetensors_bytes(
            b'{"w":%b,"w":%b}' % ((json.dumps(entry(0, 4, [1])).encode(),) * 2), b"1234"
        ),
        "more than once: w",
    ),
    "duplicate field": (safetensors_bytes(b'{"w":{"dtype":"F32","dtype":"F16"}}'), "once: dtype"),
    "hole": (
        safetensors_bytes({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
        "4 unused bytes between tensor a and tensor b",
    ),
    "hole at the start": (
        safetensors_bytes({"a": entry(4, 8, [1])}, bytes(8)),
        "4 unused bytes between the header and tensor a",
    ),
    "overlap": (
        safetensors_bytes({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        "tensor b overlaps tensor a by 4 bytes",
    ),
    "same bytes twice": (
        safetensors_bytes({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4)),
        "tensor b overlaps tensor a by 4 bytes",
    ),
    "trailing bytes": (
        safetensors_bytes({"a": entry(0, 4, [1])}, bytes(5)),
        "1 bytes follow",
    ),
    "trailing bytes, no tensor": (safetensors_bytes({}, bytes(5)), "5 bytes follow"),
    "truncated data": (
        safetensors_bytes({"a": entry(0, 4, [1])}, bytes(3)),
        "truncated: the",
    ),
    "empty tensor outside": (
        safetensors_bytes({"a": entry(0, 4, [1]), "z": entry(9, 9, [0])}, bytes(4)),
        "5 unused bytes between tensor a and tensor z",
    ),
    "too few bytes for the shape": (
        one(shape=[2]),
        "shape [2] needs 8 bytes, its offsets give 4",
    ),
    "unknown dtype": (one(dtype="F4"), "tensor w: unknown dtype F4"),
    "dtype not a string": (one(dtype=["F32"]), "unknown dtype"),
    "dtype of a Python key": (one(dtype=None), "unknown dtype None"),
    "offsets reversed": (one(data_offsets=[4, 0]), "not a pair of offsets: [4, 0]"),
    "three offsets": (one(data_offsets=[0, 4, 4]), "not a pair of offsets"),
    "offsets null": (one(data_offsets=None), "not a pair of offsets: None"),
    "negative offset": (one(data_offsets=[-4, 0]), "not a pair of offsets: [-4, 0]"),
    "minus zero": (
        safetensors_bytes(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', bytes(4)),
        "not a pair of offsets: [-0.0, 4]",
    ),
    "huge offset": (one(data_offsets=[2**63, 2**63 + 4]), "not a pair of offsets"),
    "offset past the end": (
        one(data_offsets=[2**62, 2**62 + 4]),
        "unused bytes between the header",
    ),
    "float offset": (one(data_offsets=[0, 4.0]), "not a pair of offsets: [0, 4.0]"),
    "bool offset": (one(data_offsets=[False, 4]), "not a pair of offsets: [False, 4]"),
    "bool shape": (one(shape=[True]), "not a shape: [True]"),
    "float shape": (one(shape=[1.0]), "not a shape: [1.0]"),
    "negative shape": (one(shape=[-1]), "not a shape: [-1]"),
    "two negatives": (one(shape=[-1, -1]), "not a shape: [-1, -1]"),
    "huge shape": (one(shape=[2**63]), "not a shape"),
    "product overflows": (one(shape=[2**32, 2**32]), "not a shape"),
    "product overflows to zero": (one(shape=[2**62, 2**62, 0]), "not a shape"),
    "65 dimensions": (one(shape=[1] * 65), "not a shape"),
    "shape null": (one(shape=None), "not a shape: None"),
    "shape text": (one(shape="1"), "not a shape: 1"),
    "unknown field": (one(layout="x"), "found dtype, shape, data_offsets, layout"),
    "missing field": (
        safetensors_bytes({"w": {"dtype": "F32", "shape": []}}),
        "found dtype",
    ),
    "no field": (safetensors_bytes({"w": {}}), "found none"),
    "tensor a list": (
        safetensors_bytes({"w": [1]}),
        "found list",
    ),
    "metadata a list": (safetensors_bytes({"__metadata__": []}), "__metadata__ is not an object"),
    "metadata number": (
        safetensors_bytes({"__metadata__": {"k": 1}}),
        "k: not a string",
    ),
    "metadata nested": (
        safetensors_bytes({"__metadata__": {"k": {}}}),
        "k: not a string",
    ),
    "deep": (safetensors_bytes(b'{"a":' + b"[" * 100_000), "nested more than 64 levels deep"),
    "digits": (safetensors_bytes(b'{"a":' + b"1" * 100_000 + b"}"), "an integer of 100000 digits"),
    "NaN": (safetensors_bytes(b'{"a":NaN}'), "NaN is not a JSON value"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refuses(data: bytes, words: str, refused: Refused) -> None:
    refused(data, words)


def test_the_library_refuses_nearly_all_of_these_too() -> None:
    """The cases above are the format's rules, not our inventions, but for these few."""
    accepted = set()
    for name, (data, _) in BAD.items():
        with contextlib.suppress(Exception):
            safetensors.deserialize(data)
            accepted.add(name)
    assert accepted == {"duplicate tensor", "unknown field", "65 dimensions"}


def test_reports_every_problem_at_once(refused: Refused) -> None:
    header = {
        "a": entry(0, 4, [1], dtype="Q4"),
        "b": entry(4, 8, [-1]),
        "c": entry(8, 12, [2]),
        "::error::d": entry(12, 16, [1], dtype="\x1b[31m"),
    }
    error = refused(safetensors_bytes(header, bytes(16)), "Q4", "[-1]", "needs 8", "\\x1b[31m")
    assert len(error.problems) == 4
    assert "tensor :\\:error:\\:d: " in str(error)


def test_a_flood_of_problems_is_cut(refused: Refused) -> None:
    header = {str(i): entry(0, 4, [1], dtype="?") for i in range(5000)}
    error = refused(safetensors_bytes(header), "and 4,980 more problems")
    assert len(error.problems) == 21


def test_header_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data, words in (
        ((100_000_001).to_bytes(8, "little") + b"{}", "at most 100,000,000 are allowed"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "at most"),
        (safetensors_bytes(b' {"a":1}'), "does not start with '{'"),
        (safetensors_bytes(b""), "does not start with '{'"),
        (b"1234567", "7 bytes are too few"),
    ):
        path.write_bytes(data)
        with pytest.raises(BadInput) as caught:
            read_safetensors(InputFile(path))
        assert words in str(caught.value)
