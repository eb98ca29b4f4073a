"""The digest by which runs are known to come from the same kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from llamatools.reference.determinism import deterministic, kernels

CPU = torch.device("cpu")
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _digest(dtype: torch.dtype) -> str:
    with deterministic(CPU, 1):
        return kernels(CPU, dtype)


def test_every_type_has_one_digest() -> None:
    assert len({_digest(d) for d in TYPES}) == len(TYPES)
    assert [_digest(d) for d in TYPES] == [_digest(d) for d in TYPES]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="there are no other kernels"
)
def test_other_kernels_have_another() -> None:
    script = (
        "import torch; from llamatools.reference.determinism import *\n"
        "with deterministic(torch.device('cpu'), 1):\n"
        "    print(kernels(torch.device('cpu'), torch.bfloat16))\n"
    )
    found = []
    for more in ({}, {"ATEN_CPU_CAPABILITY": "default"}):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True,
            env=os.environ | more,
        )  # fmt: skip
        found.append(done.stdout.strip())
    assert found[0] == _digest(torch.bfloat16) != found[1]
