"""Releases that prove themselves by the sum of all values, on a small stand-in for Alpaca."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from delta_kit import BASE, grown, with_numbers, write
from support.calls import call, leftovers
from support.sparse import Sizes
from support.tiny import Tensors, Tiny
from support.tiny_files import read_hf

from llamatools.deltas import sums
from llamatools.dtypes import F32
from llamatools.spec import ModelSpec

DELTA = Tiny(style="llama-1", kv_heads=8, vocab=41, dtype=torch.float32)
SIZES = (DELTA.dim, DELTA.layers, DELTA.heads, DELTA.kv_heads, DELTA.ffn, DELTA.vocab)


def result(base: Tiny, delta: Tiny) -> Tensors:
    start = grown(base, base.truth, delta.vocab, "mean")
    return {n: t.double() + delta.truth[n].double() for n, t in start.items()}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A base and a delta whose result adds up to what the table says."""
    base, delta = with_numbers(BASE, 1), with_numbers(DELTA, 2)
    base.truth["lm_head.weight"] += 0.1  # a mean that is worth speaking of
    total = sum(float(t.sum()) for t in result(base, delta).values())
    known = sums.KnownSum("Little Alpaca", SIZES, F32, round(total, 4))
    monkeypatch.setattr(sums, "KNOWN", (known,))
    return write(base, tmp_path / "base"), write(delta, tmp_path / "delta")


@pytest.mark.parametrize("words", [(), ("--kind", "alpaca")], ids=["alone", "alpaca"])
@pytest.mark.parametrize("dtype", ["keep", "fp32", "fp16"])
def test_recognised_and_proven(
    words: tuple[str, ...], dtype: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whatever the result is rounded to: what is added up has not been rounded yet."""
    out = tmp_path / "out"
    done = call("apply-delta", *models, out, "--dtype", dtype, *words, "--json")
    assert done.code == 0, done.err
    assert any("taken for Little Alpaca" in n for n in done.json["notes"])
    assert done.json["merge"]["adapters"][0]["kind"] == "additive delta, new rows over the mean"
    assert len(read_hf(out)["lm_head.weight"]) == 41


@pytest.mark.parametrize("jobs", [1, 3])
def test_another_base_is_found_out(jobs: int, models: tuple[Path, Path], tmp_path: Path) -> None:
    other = with_numbers(BASE, 1)
    other.truth["lm_head.weight"] += 0.1
    other.truth["model.layers.0.mlp.gate_proj.weight"][5, 6] += 0.25
    base = write(other, tmp_path / "other")
    done = call("apply-delta", base, models[1], tmp_path / "out", "--jobs", jobs)
    assert done.code == 1
    assert "that of Little Alpaca is" in done.err
    assert "--kind pad-mean or pad-zeros" in " ".join(done.err.split())
    assert leftovers(tmp_path / "out") == []


def test_another_padding_is_found_out(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = sums.KNOWN[0]
    zeros = sums.KnownSum(known.title, known.sizes, known.dtype, known.total, "zeros")
    monkeypatch.setattr(sums, "KNOWN", (zeros,))
    assert call("apply-delta", *models, tmp_path / "out").code == 1
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["pad-zeros", "pad-mean"])
def test_who_says_the_padding_needs_no_sum(
    kind: str, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "KNOWN", (sums.KnownSum("Another", SIZES, F32, 1e6),))
    assert call("apply-delta", *models, tmp_path / "no").code == 1
    assert call("apply-delta", *models, tmp_path / "yes", "--kind", kind).code == 0


def test_alpaca_of_other_sizes(tmp_path: Path) -> None:
    base, delta = write(with_numbers(BASE, 1), tmp_path / "b"), with_numbers(DELTA, 2)
    d = write(delta, tmp_path / "d")
    done = call("apply-delta", base, d, tmp_path / "out", "--kind", "alpaca")
    assert done.code == 3
    assert "no sum to check" in " ".join(done.err.split())


def spec(**changes: object) -> ModelSpec:
    sizes = Sizes(4096, 32, 32, 32, 11008, 32001)
    return ModelSpec(
        **{  # type: ignore[arg-type]
            "dim": sizes.dim, "n_layers": sizes.layers, "n_heads": sizes.heads,
            "n_kv_heads": sizes.kv_heads, "head_dim": sizes.head_dim, "ffn_dim": sizes.ffn,
            "vocab_size": sizes.vocab, "norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": None,
            "context": 2048, "tied": False, **changes,
        }
    )  # fmt: skip


def test_the_release_itself() -> None:
    known = sums.known_sum(spec(), F32)
    assert known is not None
    assert known.title == "Alpaca 7B"
    assert sums.known_sum(spec(vocab_size=32000), F32) is None
    assert sums.known_sum(spec(dim=5120), F32) is None
    tables = 32 * (1 / 1e4 ** (torch.arange(0, 128, 2) / 128)).sum().item()
    assert tables == pytest.approx(238.72, abs=0.005)
    for total in (50637.1836, 50637.1836 - 238.72):
        for off in (0, 0.04, -0.04):
            assert known.agrees(total + off, spec())
        for off in (0.06, -0.06, 238.72 * 2):
            assert not known.agrees(total + off, spec())


def test_sums_do_not_depend_on_order() -> None:
    from llamatools.plan.passes.exactsum import exact, rounded

    values = [random.Random(i).gauss(0, 10 ** (i % 9)) for i in range(500)]
    totals = set()
    for seed in range(5):
        random.Random(seed).shuffle(values)
        totals.add(rounded(sum(map(exact, values))))
    assert len(totals) == 1
