"""Damaged files: whatever the damage, an error of ours or tensors that lie within the file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from forge import fill

from llamatools.containers.detect import open_container
from llamatools.containers.numbers import extent
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.containers.torchzip_write import torch_layout
from llamatools.dtypes import BF16, BY_NAME, F32
from llamatools.errors import LlamatoolsError

ROUNDS = 1200
SPEC = [("layers.0.weight", BF16, (2, 3)), ("b", F32, (2,)), ("c", BY_NAME["F8_E4M3"], (4,))]
INTERESTING = [b"", b"\0", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"{", b'"', b"-", b"9" * 30, b"("]
INTERESTING += [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\7", b"cos\nsystem\n", b"\x80", b"R", b"b"]


def originals(folder: Path) -> Iterator[bytes]:
    yield fill(
        safetensors_layout(SPEC, {"a": "b"}), [bytes(12), bytes(8), bytes(4)], folder / "s"
    ).read_bytes()
    yield fill(torch_layout(SPEC, "m"), [bytes(12), bytes(8), bytes(4)], folder / "t").read_bytes()
    state = {"a": torch.zeros(2, 3), "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}
    for protocol in (2, 4):
        torch.save(state, folder / "p", pickle_protocol=protocol)
        yield (folder / "p").read_bytes()


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


@pytest.mark.parametrize("which", range(4))
def test_only_our_errors_come_out(which: int, tmp_path: Path) -> None:
    original = list(originals(tmp_path))[which]
    rng = random.Random(which)
    path = tmp_path / "file"
    accepted = 0
    for _ in range(ROUNDS):
        data = mutate(original, rng)
        path.write_bytes(data)
        try:
            found = open_container(path)
        except LlamatoolsError as e:
            assert str(path) in str(e)
            continue
        accepted += 1
        for t in found.tensors.values():
            assert t.offset >= 0
            assert t.offset + extent(t.shape, t.strides) * t.dtype.size <= len(data)
        if found.kind == "safetensors":
            names = {name for name, _ in safetensors.deserialize(data)}
            assert names == set(found.tensors)
    assert 0 < accepted < ROUNDS
