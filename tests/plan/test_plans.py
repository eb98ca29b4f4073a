"""What a plan says is what is written: files, sizes, tensors, shapes, offsets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

import llamatools
from llamatools.conversion import prepare, run
from llamatools.plan.build import Options
from llamatools.plan.plan import PlannedFile

OPTIONS = [
    Options(to="hf"),
    Options(to="hf", max_shard_size=5000),
    Options(to="hf", weights="bin"),
    Options(to="hf", weights="bin", max_shard_size=5000),
    Options(to="hf", dtype="fp32"),
    Options(to="meta"),
    Options(to="meta", shards=2),
    Options(to="meta", shards=8),
    Options(to="meta", shards=4, dtype="fp16"),
    Options(to="meta", weights="safetensors", max_shard_size=9000),
    Options(to="safetensors", max_shard_size=9000),
]


def _shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By the formats' own libraries."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as f:
            held = {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    else:
        held = torch.load(path, weights_only=True)
    return {n: (str(t.dtype)[6:], tuple(t.shape)) for n, t in held.items()}


def _planned(file: PlannedFile) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {s.name: (s.dtype.torch, s.shape) for s in file.layout.slots}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_written_as_planned(layout: str, options: Options, tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=43, attention_bias=True)
    source = (
        write_hf(model, tmp_path / "in")
        if layout == "hf"
        else write_meta(model, tmp_path / "in", 4)
    )
    out = tmp_path / "out"
    with llamatools.open_checkpoint(source) as opened:
        prepared = prepare(opened, out, options)
        run(prepared)
    plan = prepared.plan
    written = {p.name for p in out.iterdir()}
    assert written == {f.name for f in plan.files} | {*plan.documents, "llamatools.json"}
    for f in plan.files:
        assert (out / f.name).stat().st_size == f.layout.size
        assert _shapes(out / f.name) == _planned(f)
    for name, data in plan.documents.items():
        assert (out / name).read_bytes() == data
    total = sum((out / n).stat().st_size for n in written - {"llamatools.json"})
    assert total == plan.write_bytes
    assert prepared.disk_needed >= sum(p.stat().st_size for p in out.iterdir())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_targets_tile_every_slot(options: Options, tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=43)
    with llamatools.open_checkpoint(write_hf(model, tmp_path / "in")) as opened:
        plan = prepare(opened, tmp_path / "out", options).plan
    targets = [(t.file, t.slot) for s in plan.steps for t in s.targets]
    slots = [(i, j) for i, f in enumerate(plan.files) for j in range(len(f.layout.slots))]
    assert sorted(targets) == slots
    for step in plan.steps:
        for t in step.targets:
            slot = plan.files[t.file].layout.slots[t.slot]
            assert slot.shape[t.axis] == t.stop - t.start
            assert slot.dtype == step.value.dtype
            assert slot.stop - slot.start == slot.dtype.size * torch.Size(slot.shape).numel()


def test_a_plan_reads_each_weight_once(tmp_path: Path) -> None:
    model = Tiny()
    with llamatools.open_checkpoint(write_meta(model, tmp_path / "in", 2)) as opened:
        plan = prepare(opened, tmp_path / "out", Options(to="hf")).plan
        stored = sum(t.nbytes for t in opened.stored)
    assert plan.read_bytes == stored
