"""Inputs that change while they are read: refused, or read before; never a mixture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forked import run
from injected import Fault, Meanwhile
from promises import Findings, after_fault, after_rerun
from safetensors.torch import load_file, save
from scenes import INPUTS, PLACE, SCENES, Stage, contents
from trials import claimed, left_by_a_kill

MAIN = ("meta to hf", "hf to meta")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _grow(path: Path) -> None:
    with path.open("ab") as f:
        f.write(bytes(100))


def _turn(path: Path) -> None:
    """Other bytes of the same number, where the weights are."""
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 3, len(data) * 2 // 3):
        data[i] ^= 0xFF
    path.write_bytes(data)


def _replace(path: Path) -> None:
    """The old one stays what it is, for those who have it open."""
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    _turn(new)
    new.rename(path)


def _change(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "cut", lambda: _cut(path)
    yield "emptied", lambda: path.write_bytes(b"")
    yield "turned", lambda: _turn(path)
    yield "longer", lambda: _grow(path)
    yield "another file", lambda: _replace(path)
    yield "gone", path.unlink


@pytest.mark.parametrize("scene", MAIN)
def test_inputs_that_change(scene: str, tmp_path: Path) -> None:
    """While they are read. What comes of it is refused; or it is the old, read before."""
    stage, findings = Stage(SCENES[scene], tmp_path), Findings()
    assert stage.wanted
    before = {p: p.read_bytes() for p in stage.inputs.rglob("*") if p.is_file()}
    weights = max(before, key=lambda p: len(before[p]))
    ran = run(stage.words, stage.root)
    reads = [c for c in ran.calls if c.name == "read" and c.path.startswith(INPUTS)]
    stage.clear()
    for n in (2, len(reads) // 2):
        for name, act in _change(weights):
            fault = Fault(Meanwhile(act, f"{weights.name} is {name}"), ("read",), n, below=INPUTS)
            stage.clear()
            ran = run(stage.words, stage.root, fault)
            problems = after_fault(stage, ran, force=False, codes=(1, 3, 4))
            for path, data in before.items():
                path.write_bytes(data)
            findings.add(fault, problems + after_rerun(stage, force=False))
    findings.none()
    assert findings.cases == 12


@pytest.mark.parametrize("scene", ["meta to hf", "merge-lora"])
@pytest.mark.parametrize("secretly", [False, True], ids=["", "secretly"])
def test_inputs_that_changed_before_a_run_goes_on(
    scene: str, secretly: bool, tmp_path: Path
) -> None:
    """Nothing of the old model gets into the new one, even where the time of change is the old."""
    stage = Stage(SCENES[scene], tmp_path)
    assert stage.wanted
    left = left_by_a_kill(stage)
    assert claimed(left)
    weights = max(stage.inputs.rglob("*.*"), key=lambda p: p.stat().st_size)
    was = weights.stat()
    replacement = _other_numbers(weights)
    weights.write_bytes(replacement)
    if secretly:
        os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    stage.clear()
    assert run(stage.words, stage.root).code == 0
    wanted = contents(tmp_path / PLACE)
    assert wanted != stage.wanted
    stage.put(left)
    ran = run([w for w in stage.words if w != "-q"], stage.root)
    assert ran.code == 0, ran.err
    assert "starting over" in ran.err
    assert contents(tmp_path / PLACE) == wanted


def _other_numbers(weights: Path) -> bytes:
    """The same checkpoint with other weights, as whoever made it would write it."""
    st = weights.suffix == ".safetensors"
    tensors = load_file(weights) if st else torch.load(weights, weights_only=True)
    # Norms are in every file, and must be the same in all.
    turned = {n: t.flip(0).contiguous() if t.dim() == 2 else t for n, t in tensors.items()}
    if st:
        return save(turned, {"format": "pt"})
    out = io.BytesIO()
    torch.save(turned, out)
    return out.getvalue()
