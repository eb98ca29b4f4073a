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


@pytest.mark.parametrize("tp", [1, 32])
def test_the_fewest_are_no_more_than_what_was_asked_about(tp: int) -> None:
    """With many key-value heads, more ranks than the search looks at by itself may be better."""
    done = call("inspect", "llama-2-7b", "--kv-memory", "--json", "--kv-dtype", "q5_1", "--batch",
                "3", "--engine", "vllm", "--gpu", "a10", "--context", "1m", "--tp", tp)  # fmt: skip
    (gpu,) = done.json["gpus"]
    fits = gpu["verdicts"][0]["verdict"] == "fits"
    assert fits == (tp == 32)
    assert gpu["fewest"]["gpus"]["value"] == (32 if fits else 40)


def test_names_are_not_guessed_from_their_letters() -> None:
    assert find(["4090"]) == find(["rtx-4090"])
    for name in ("4", "r4090", "x3090"):
        with pytest.raises(UsageError, match="no such GPU"):
            find([name])


def test_sizes_that_look_alike_have_names_of_their_own() -> None:
    near = (48 << 30, (48 << 30) + 5_000_000)
    assert [g.key for g in find(near)] == [f"{n}B" for n in near]
    assert [g.key for g in find([48 << 30, 24 << 30])] == ["48GiB", "24GiB"]


def test_contexts() -> None:
    def contexts(*words: str) -> list[int]:
        done = call("inspect", "llama-3.1-8b", "--kv-memory", "--json", *words)
        assert done.code == 0, done.err
        return [row["context"] for row in done.json["contexts"]]

    assert contexts("--context", "8k", "--context", "4k,8k") == [4096, 8192]
    done = call("inspect", "llama-3.1-8b", "--kv-memory", "--context", "8,192")
    assert done.code == 2
    assert "'8,192' may be one or several; write 8192" in done.err
