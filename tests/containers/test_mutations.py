"""Damaged files: whatever the damage, an error of ours or tensors that lie within the file."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from support.forge import FakeStorage, FakeTensor, fill, pickled, safetensors_bytes, torch_bytes

from llamatools.containers.detect import open_container
from llamatools.containers.numbers import extent
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.containers.torchzip_write import torch_layout
from llamatools.dtypes import BF16, BY_NAME, F32
from llamatools.errors import LlamatoolsError

ROUNDS = 800
SPEC = [("layers.0.weight", BF16, (2, 3)), ("b", F32, (2,)), ("c", BY_NAME["F8_E4M3"], (4,))]
INTERESTING = [b"", b"\0", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"{", b'"', b"-", b"9" * 30, b"("]
INTERESTING += [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\7", b"cos\nsystem\n", b"\x80", b"R", b"b"]


PAYLOADS = [bytes(12), bytes(8), bytes(4)]
STATE = OrderedDict(
    a=FakeTensor(),
    b=FakeTensor(FakeStorage("1", 8, torch.UntypedStorage), dtype=torch.uint16),
    model={"c": (1, -1, 2.5, None, True, [2**40])},
)


def whole_files(folder: Path) -> dict[str, bytes]:
    """Files to damage anywhere; the CRC of data.pkl keeps most damage from its reader."""
    state = {"a": torch.zeros(2, 3), "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}
    torch.save(state, folder / "torch")
    fill(safetensors_layout(SPEC, {"a": "b"}), PAYLOADS, folder / "safetensors")
    fill(torch_layout(SPEC, "m"), PAYLOADS, folder / "ours")
    return {name: (folder / name).read_bytes() for name in ("torch", "safetensors", "ours")}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three of: a byte changed, a run replaced, cut out, doubled or moved; the end cut."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + rng.choice((1, 2, 4, 8, 64)))
        data = (
            rng.choice(
                (
                    data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :],
                    data[:i] + rng.choice(INTERESTING) + data[j:],
                    data[:i] + rng.choice(INTERESTING) + data[i:],
                    data[:i] + data[j:],
                    data[:j] + data[i:],
                    data[:i],
                )
            )
            or b"x"
        )
    return data


@pytest.mark.parametrize("kind", ["torch", "safetensors", "ours"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    original = whole_files(tmp_path)[kind]
    accepted = sum(survives(data, tmp_path) for data in damaged(original, kind))
    assert 0 < accepted < ROUNDS


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_damaged_pickles(protocol: int, tmp_path: Path) -> None:
    storages = {"0": bytes(16), "1": bytes(8)}
    for data in damaged(pickled(STATE, protocol), str(protocol)):
        survives(torch_bytes(data, storages), tmp_path)


def test_damaged_headers(tmp_path: Path) -> None:
    header = safetensors_layout(SPEC, {"a": "b"}).header[8:]
    for data in damaged(header, "header"):
        survives(safetensors_bytes(data, b"".join(PAYLOADS)), tmp_path)


def damaged(original: bytes, seed: str) -> Iterator[bytes]:
    rng = random.Random(seed)
    return (mutate(original, rng) for _ in range(ROUNDS))


def survives(data: bytes, folder: Path) -> bool:
    """Whether the file is still accepted; then its tensors have to lie within it."""
    path = folder / "file"
    path.write_bytes(data)
    try:
        found = open_container(path)
    except LlamatoolsError as e:
        assert str(path) in str(e)
        return False
    for t in found.tensors.values():
        assert t.offset >= 0
        assert t.offset + extent(t.shape, t.strides) * t.dtype.size <= len(data)
    if found.kind == "safetensors":
        assert {name for name, _ in safetensors.deserialize(data)} == set(found.tensors)
    return True
