"""Casts: torch's values, bit for bit, and counts that name what was lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calls import call
from support.tiny import Tiny, as_bits
from support.tiny_files import read_hf, unequal, write_hf

import llamatools
from llamatools.plan.passes.cast import cast_counts

INF, NAN = float("inf"), float("nan")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
NAMES = {F32: "fp32", BF16: "bf16", F16: "fp16"}
PAIRS = [(a, b) for a in NAMES for b in NAMES if a is not b]


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda d: NAMES[d])
def test_values_are_torchs(before: torch.dtype, after: torch.dtype, tmp_path: Path) -> None:
    """Random bits: infinities, subnormals and NaN are among them; a NaN becomes the plain one."""
    model = Tiny(dtype=before)
    source, out = write_hf(model, tmp_path / "in"), tmp_path / "out"
    manifest = llamatools.convert(source, out, llamatools.Options(to="hf", dtype=NAMES[after]))
    wanted = {n: t.to(after).masked_fill(t.isnan(), NAN) for n, t in model.truth.items()}
    assert unequal(read_hf(out), wanted) == []
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == str(after)[6:]
    assert manifest["lossless"] is False
    casts = {c["name"]: c for c in manifest["casts"]}  # type: ignore[attr-defined]
    assert len(casts) == len(model.truth)
    t = model.truth["model.embed_tokens.weight"]
    kept = t.to(after).to(torch.float64)
    wide = t.to(torch.float64)
    assert casts["embedding.weight"]["values"] == t.numel()
    assert casts["embedding.weight"]["changed"] == int(
        ((wide != kept) & ~(wide.isnan() & kept.isnan())).sum()
    )


CASES = [
    # before, after, value, changed, overflowed, flushed
    (F32, F16, 65504.0, 0, 0, 0),
    (F32, F16, 65519.0, 1, 0, 0),
    (F32, F16, 65520.0, 1, 1, 0),
    (F32, F16, -1e9, 1, 1, 0),
    (F32, F16, 2.0**-24, 0, 0, 0),
    (F32, F16, 2.0**-25, 1, 0, 1),
    (F32, F16, 1.0001 * 2.0**-25, 1, 0, 0),
    (F32, F16, 0.0, 0, 0, 0),
    (F32, F16, -0.0, 0, 0, 0),
    (F32, F16, INF, 0, 0, 0),
    (F32, F16, NAN, 0, 0, 0),
    (F32, BF16, 1.0, 0, 0, 0),
    (F32, BF16, 1.001, 1, 0, 0),
    (F32, BF16, 3.4e38, 1, 1, 0),
    (F32, BF16, 1e-45, 1, 0, 1),
    (BF16, F16, 1e30, 1, 1, 0),
    (BF16, F16, 1e-30, 1, 0, 1),
    (F16, BF16, 65504.0, 1, 0, 0),
    (F16, F32, 65504.0, 0, 0, 0),
]


@pytest.mark.parametrize(("before", "after", "value", "changed", "over", "flushed"), CASES)
def test_counts(
    before: torch.dtype, after: torch.dtype, value: float, changed: int, over: int, flushed: int
) -> None:
    a = torch.tensor([value, 1.0], dtype=before)
    assert cast_counts(a, a.to(after)) == {
        "values": 2,
        "changed": changed,
        "overflowed": over,
        "flushed_to_zero": flushed,
    }


def test_what_is_of_that_type_already_is_not_cast(tmp_path: Path) -> None:
    source = write_hf(Tiny(norm_dtype=F32), tmp_path / "in")
    manifest = llamatools.convert(
        source, tmp_path / "out", llamatools.Options(to="hf", dtype="bf16")
    )
    assert {c["name"] for c in manifest["casts"]} == {  # type: ignore[attr-defined]
        *(f"layers.{i}.{part}.norm.weight" for i in (0, 1) for part in ("attention", "mlp")),
        "norm.weight",
    }


def test_counts_add_up_over_blocks_and_workers(tmp_path: Path) -> None:
    """A tensor of several blocks and chunks."""
    model = Tiny(heads=4, kv_heads=2, head_dim=64, layers=1, ffn=128, vocab=5000, dtype=F32)
    source = write_hf(model, tmp_path / "in")
    t = model.truth["model.embed_tokens.weight"]
    wanted = cast_counts(t, t.to(F16))
    for jobs, memory in ((1, 18 << 20), (3, 60 << 20)):
        manifest = llamatools.convert(
            source, tmp_path / f"out{jobs}", llamatools.Options(to="hf", dtype="fp16"),
            jobs=jobs, max_memory=memory,
        )  # fmt: skip
        casts = {c.pop("name"): c for c in manifest["casts"]}  # type: ignore[attr-defined]
        assert casts["embedding.weight"] == {"before": "F32", "after": "F16", **wanted}
    assert t.numel() > 1 << 20


def test_the_summary_warns_of_overflow(tmp_path: Path) -> None:
    model = Tiny(dtype=F32)
    tensors = {n: torch.ones_like(t) for n, t in model.truth.items()}
    tensors["model.norm.weight"][3] = 1e6
    source = write_hf(model, tmp_path / "in")
    save_file(tensors, source / "model.safetensors")
    done = call("convert", source, tmp_path / "out", "--to", "hf", "--dtype", "fp16")
    assert done.code == 0
    assert "warning: values overflowed to infinity" in done.out
    assert load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"][3] == INF


def test_nan_payloads_may_change_but_never_become_numbers(tmp_path: Path) -> None:
    model = Tiny(dtype=F32)
    source = write_hf(model, tmp_path / "in")
    llamatools.convert(source, tmp_path / "out", llamatools.Options(to="hf", dtype="bf16"))
    for name, t in read_hf(tmp_path / "out").items():
        assert torch.equal(t.isnan(), model.truth[name].isnan())
        assert t.dtype == BF16
        assert as_bits(t).shape == t.shape
