"""Parts of a plan make the whole: the same files and findings, over however many processes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calls import tree
from support.lora import PREFIX, factors, write_adapter
from support.tiny import Tiny, finite
from support.tiny_files import write_hf, write_meta

from llamatools import Options, open_checkpoint
from llamatools.engine.checksums import RecordChecks
from llamatools.engine.execute import execute
from llamatools.engine.outcome import Outcome
from llamatools.engine.resources import resources
from llamatools.engine.split import identity, inputs, part_of, united
from llamatools.errors import BadInput, CheckFailed
from llamatools.merging.prepare import Merge, prepare_merge
from llamatools.plan.build import plan_conversion
from llamatools.plan.plan import Plan

CASES: dict[str, dict[str, Any]] = {
    "meta-4": {"to": "meta", "shards": 4},
    "meta-2-fp32": {"to": "meta", "shards": 2, "dtype": "fp32"},
    "hf-many": {"to": "hf", "max_shard_size": 4000},
    "hf-fp16": {"to": "hf", "max_shard_size": 9000, "dtype": "fp16"},
    "hf-bin": {"to": "hf", "max_shard_size": 9000, "weights": "bin"},
    "one-file": {"to": "safetensors"},
}
SIZES = (2, 3, 5, 64)


def _whole(plan: Plan, folder: Path) -> Outcome:
    folder.mkdir()
    return execute(plan, resources(plan), folder)


def _parts(plan: Plan, size: int, folder: Path) -> list[tuple[Outcome, list[list[Any]]]]:
    """What each process finds out, as it comes out of JSON."""
    folder.mkdir()
    out = []
    for rank in range(size):
        checks = RecordChecks()
        outcome = execute(
            part_of(plan, rank, size), resources(plan), folder, lambda n: None, checks
        )
        found = json.loads(json.dumps([asdict(outcome), checks.seen(inputs(plan))]))
        out.append((Outcome(**found[0]), found[1]))
    return out


def _together(plan: Plan, size: int, folder: Path) -> Outcome:
    checks, found = RecordChecks(), _parts(plan, size, folder)
    for _, seen in found:
        checks.add(seen, inputs(plan))
    outcome = united([o for o, _ in found])
    outcome.records_checked, outcome.records_partial = checks.finish()
    return outcome


@pytest.mark.parametrize("source", ["hf", "meta"])
@pytest.mark.parametrize("case", CASES)
def test_parts_make_the_whole(case: str, source: str, tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40, layers=3)
    folder = tmp_path / source
    write_hf(model, folder) if source == "hf" else write_meta(model, folder, 2)
    with open_checkpoint(folder) as opened:
        plan = plan_conversion(opened, Options(**CASES[case]))
        whole = _whole(plan, tmp_path / "whole")
        for size in SIZES:
            found = _together(plan, size, tmp_path / str(size))
            assert found == whole
            assert tree(tmp_path / str(size)) == tree(tmp_path / "whole")
    assert (whole.records_checked > 0) == (source == "meta")


@pytest.mark.parametrize("case", CASES)
def test_parts_of_a_merge(case: str, tmp_path: Path) -> None:
    """Its statistics are exact sums, and the base has a fingerprint of what no file holds."""
    model = finite(Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40))
    tensors = factors(model, "q_proj", "v_proj")
    tensors[f"{PREFIX}lm_head.weight"] = torch.randn(model.vocab, model.dim)
    base = write_meta(model, tmp_path / "base", 2)
    adapter = write_adapter(tmp_path / "adapter", tensors, modules_to_save=["lm_head"])
    with open_checkpoint(base) as opened:
        out = tmp_path / "out"
        plan = prepare_merge(opened, out, Merge((str(adapter),)), Options(**CASES[case])).plan
        whole = _whole(plan, tmp_path / "whole")
        assert "head.weight" in whole.before and whole.counts
        assert [s.name for s in plan.unused] == ["head.weight"]
        for size in SIZES:
            assert _together(plan, size, tmp_path / str(size)) == whole
            assert tree(tmp_path / str(size)) == tree(tmp_path / "whole")


def test_every_file_belongs_to_one_process(hf: Path) -> None:
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=4000))
    for size in SIZES:
        parts = [part_of(plan, rank, size) for rank in range(size)]
        assert sorted(f.name for p in parts for f in p.files) == [f.name for f in plan.files]
        assert max(len(p.files) for p in parts) - min(len(p.files) for p in parts) <= 1
        assert sorted(s.name for p in parts for s in p.steps) == sorted(s.name for s in plan.steps)


def test_a_damaged_record_is_found_by_whoever_reads_it(tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40)
    folder = write_meta(model, tmp_path / "meta", 2)
    with open_checkpoint(folder) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=4000))
        tensor = next(iter(plan.steps[-1].value.reads()))
    data = bytearray(tensor.file.path.read_bytes())
    data[tensor.offset] ^= 1
    tensor.file.path.write_bytes(data)
    with open_checkpoint(folder) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=4000))
        with pytest.raises(BadInput, match="CRC-32") as alone:
            _whole(plan, tmp_path / "whole")
        with pytest.raises(BadInput, match="CRC-32") as several:
            _together(plan, 3, tmp_path / "3")
    assert several.value.problems == alone.value.problems


def test_findings_that_contradict_each_other() -> None:
    one = Outcome({"a": "1", "b": "2"}, counts={"a": {"values": 3}})
    other = Outcome({"b": "2", "c": "3"}, counts={"a": {"values": 4}})
    with pytest.raises(CheckFailed) as caught:
        united([one, other])
    assert caught.value.problems == ("a: process 1 read other values than those before",)
    other.counts = dict(one.counts)
    assert united([one, other]).tensors == {"a": "1", "b": "2", "c": "3"}


def test_identity_tells_plans_apart(model: Tiny, hf: Path, tmp_path: Path) -> None:
    def of(folder: Path, **options: Any) -> str:
        with open_checkpoint(folder) as opened:
            return identity(plan_conversion(opened, Options(**({"to": "hf"} | options))))

    copy = write_hf(model, tmp_path / "elsewhere")
    assert of(hf) == of(copy)
    (copy / "LICENSE").write_text("it travels along")
    others = [
        of(hf, dtype="fp16"), of(hf, max_shard_size=4000), of(hf, to="meta", shards=2),
        of(hf, weights="bin"), of(copy), of(write_hf(replace(model, layers=3), tmp_path / "three")),
    ]  # fmt: skip
    assert len({of(hf), *others}) == 1 + len(others)
