"""A byte that was flipped on the way is found by the archive's own checksums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.calls import call, leftovers
from support.tiny import Tensors, Tiny
from support.tiny_files import hf_config, write_meta

MODEL = Tiny(heads=4, kv_heads=2, head_dim=8, ffn=96, vocab=40)


def _bin(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(hf_config(MODEL)))
    return folder


def flip(file: Path, inside: torch.Tensor) -> None:
    """One bit of the bytes of a tensor, wherever they are in the file."""
    data = bytearray(file.read_bytes())
    at = data.find(inside.contiguous().view(torch.uint8).numpy().tobytes())
    assert at > 0
    data[at + inside.nbytes // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["tok_embeddings.weight", "layers.1.attention.wk.weight"])
@pytest.mark.parametrize("command", ["convert", "fingerprint"])
def test_a_flipped_bit(name: str, command: str, tmp_path: Path) -> None:
    source, out = write_meta(MODEL, tmp_path / "in", 2), tmp_path / "out"
    file = source / "consolidated.01.pth"
    flip(file, torch.load(file, weights_only=True)[name])
    done = call(command, source, *((out, "--to", "hf") if command == "convert" else ()))
    assert done.code == 3
    assert "consolidated.01.pth" in done.err
    assert "CRC-32" in done.err
    assert "hint: the file is damaged" in done.err
    assert leftovers(out) == []


def test_replicated_norms_that_differ(tmp_path: Path) -> None:
    source, out = write_meta(MODEL, tmp_path / "in", 2), tmp_path / "out"
    file = source / "consolidated.01.pth"
    tensors = torch.load(file, weights_only=True)
    tensors["layers.1.ffn_norm.weight"] += 1
    torch.save(tensors, file)
    done = call("convert", source, out, "--to", "hf")
    assert done.code == 3
    for word in ("layers.1.mlp.norm.weight", "consolidated.01.pth", "differs"):
        assert word in done.err
    assert leftovers(out) == []


def _transposed(t: Tensors, name: str) -> None:
    t[name] = t[name].t().contiguous().t()


def _sliced(t: Tensors, name: str) -> None:
    t[name] = torch.cat([t[name], t[name]])[: len(t[name])]


@pytest.mark.parametrize("change", [_transposed, _sliced])
def test_what_was_not_checked_is_counted(
    change: Callable[[Tensors, str], None], tmp_path: Path
) -> None:
    """A manifest must not look as if every byte read had been checked."""
    tensors = dict(MODEL.truth)
    change(tensors, "model.layers.0.mlp.up_proj.weight")
    source = _bin(tmp_path / "in", tensors)
    checks = call("convert", source, tmp_path / "out", "--to", "hf", "--json").json["source"]
    assert checks["checksums"] == {"checked": len(tensors) - 1, "partial": 1}


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    source = _bin(tmp_path / "in", MODEL.truth)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(MODEL.truth, source / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    done = call("convert", source, tmp_path / "out", "--to", "hf", "--json")
    assert done.code == 0, done.err
    assert done.json["source"]["checksums"]["checked"] in (0, len(MODEL.truth))
