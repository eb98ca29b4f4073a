"""GPUs: what is visible, what is said of them, and names."""

from __future__ import annotations

import pytest
from support.calls import call

from llamatools.errors import UsageError
from llamatools.memory import estimates
from llamatools.memory.estimates import Estimates
from llamatools.memory.fit import verdict
from llamatools.memory.gpus import Gpu, find, known
from llamatools.memory.need import Need

GPU = Gpu("g", "g", 1000)


@pytest.mark.parametrize(
    ("total", "said"),
    [(0, "fits"), (900, "fits"), (901, "tight"), (1000, "tight"), (1001, "no")],
)
def test_verdicts_at_their_edges(total: int, said: str) -> None:
    for kv in (0, total // 2, total):
        assert verdict(Need(total - kv, kv, Estimates(0, 0, 0)), GPU) == said
    assert verdict(Need(0, 0, Estimates(0, total, 0)), GPU) == said


def test_the_smallest_gpu_is_named() -> None:
    done = call("inspect", "llama-3.1-8b", "--kv-memory", "--json", "--compare")
    for row in done.json["contexts"]:
        verdicts = {
            g["key"]: v["verdict"]
            for g in done.json["gpus"] for v in g["verdicts"] if v["context"] == row["context"]
        }  # fmt: skip
        assert row["smallest_gpu"] == next(k for k, v in verdicts.items() if v == "fits")
    done = call("inspect", "llama-3.1-405b", "--kv-memory", "--json")
    assert [row["smallest_gpu"] for row in done.json["contexts"]] == [None] * 3


def test_80_gb_are_not_80_gib() -> None:
    for name in ("h100-80gb", "a100-80gb"):
        assert 79 << 30 < known()[name].visible < 80 << 30
    assert all(g.usable == g.visible * 9 // 10 for g in known().values())
    assert list(known().values()) == sorted(known().values(), key=lambda g: g.visible)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("h100-80gb", "h100-80gb"), ("H100", "h100-80gb"), ("NVIDIA H100 80GB", "h100-80gb"),
        ("a100-40", "a100-40gb"), ("A100 80GB", "a100-80gb"), ("rtx-4090", "rtx4090-24gb"),
        ("4090", "rtx4090-24gb"), ("GeForce RTX 3090", "rtx3090-24gb"), ("l4", "l4-24gb"),
        ("mi300x", "mi300x-192gb"), ("a10", "a10-24gb"), ("a10g", "a10g-24gb"), ("T4", "t4-16gb"),
    ],
)  # fmt: skip
def test_names(name: str, key: str) -> None:
    assert [g.key for g in find([name])] == [key]


def test_unknown_names_are_all_said() -> None:
    with pytest.raises(UsageError) as e:
        find(["h100", "h101", "a100", "quantum"])  # there are two A100s
    assert len(e.value.problems) == 3
    assert e.value.hint is not None
    assert "did you mean" in e.value.hint
    assert "h100-80gb" in e.value.hint


def test_sizes_and_repetitions() -> None:
    gpus = find([48 << 30, "h100", "H100-80GB"])
    assert [g.visible >> 30 for g in gpus] == [48, 79]
    assert gpus[0].key == "48GiB"


def test_estimates() -> None:
    assert estimates.rope_cache(131072, 128) == 131072 * 128 * 2
    many = estimates.activations(1 << 20, 1, ffn=14336, dim=4096, vocab=128256, tp=1)
    assert many == 8192 * 6 * (14336 + 4096)
    heads = estimates.activations(1, 512, ffn=14336, dim=4096, vocab=128256, tp=1)
    assert heads == 512 * 128256 * 41
    gib = 1 << 30
    assert estimates.runtime(gib, 1) == gib // 2
    assert estimates.runtime(80 * gib, 1) == 2 * gib
    assert estimates.runtime(80 * gib, 2) == 4 * gib
