"""Settings of torch hold while a pass lasts, are told, and are as before afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from forward_kit import CPU, Seen, plain, shown
from goldens import BY_NAME

import llamatools
from llamatools.errors import BadInput, UsageError
from llamatools.reference.determinism import deterministic
from llamatools.reference.observe import Point
from llamatools.reference.run import run
from llamatools.reference.settings import Settings, find_device, processors

HOME = BY_NAME["llama3-gqa"].folder(1)


def _state() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": torch.backends.cudnn.allow_tf32,
        "bf16": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "grad": torch.is_grad_enabled(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


class Looks(Seen):
    """Takes note of torch's state when it is called."""

    found: dict[str, Any]

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        self.found = _state()
        if point.kind == "norm" and len(x) == 3:
            raise BadInput("enough")


@pytest.fixture
def careless() -> Iterator[dict[str, Any]]:
    """A program that has everything as it should not be."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    yield _state()
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("tokens", [(1, 2), (1, 2, 3)], ids=["ends", "fails"])
def test_settings_hold_meanwhile_and_are_put_back(
    tokens: tuple[int, ...], careless: dict[str, Any]
) -> None:
    looks = Looks()
    with llamatools.open_checkpoint(HOME) as opened:
        if len(tokens) == 3:
            with pytest.raises(BadInput):
                run(opened, [plain(*tokens)], looks, CPU)
        else:
            told = run(opened, [plain(*tokens)], looks, CPU).environment
            assert told["threads"] == processors()
            assert told["float32_matmul_precision"] == "highest"
            assert told["deterministic_algorithms"] is True
            assert told["cudnn_allow_tf32"] is False
            assert told["torch"] == torch.__version__
    assert careless["precision"] == "high" and careless["threads"] == 1
    assert looks.found == {
        "threads": processors(), "deterministic": True, "precision": "highest", "cudnn": False,
        "bf16": False, "fill": False, "grad": False, "workspace": None,
    }  # fmt: skip
    assert _state() == careless


def test_workspaces_of_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set for CUDA alone, unless somebody has."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(torch.device("cuda"), None) as told:
        assert told["CUBLAS_WORKSPACE_CONFIG"] == os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(torch.device("cuda"), None) as told:
        assert told["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_threads_are_as_many_as_asked_for() -> None:
    _, report = shown(HOME, [plain(1)], replace(CPU, threads=1))
    assert report.environment["threads"] == 1


def test_repeated_runs_give_the_same_bits() -> None:
    first, second = (shown(HOME, [plain(*range(64))])[0] for _ in range(2))
    assert first.same(second)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dtype": "int8"}, "fp64"),
        ({"device": "tpu"}, "cuda:N"),
        ({"device": "cuda:x"}, "cuda:N"),
        ({"max_device_memory": 0}, "positive"),
        ({"threads": -1}, "positive"),
    ],
)
def test_values_that_there_are_none_of_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**wrong)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:3", "mps"):
        with pytest.raises(UsageError, match=f"--device {device}"):
            find_device(Settings(device=device))
    assert find_device(Settings()) == torch.device("cpu")


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th process of a machine takes its n-th GPU, unless one is named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device(Settings(), 1) == torch.device("cuda", 1)
    assert find_device(Settings(device="cuda:0"), 1) == torch.device("cuda", 0)
    with pytest.raises(UsageError, match="finds 2"):
        find_device(Settings(device="cuda"), 2)


def test_apples_devices_have_no_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device(Settings()) == torch.device("mps")
    assert find_device(Settings(dtype="fp64")) == torch.device("cpu")
    with pytest.raises(UsageError, match="fp64"):
        find_device(Settings(device="mps", dtype="fp64"))
