"""Settings of torch under which the same products give the same bits, kept for a while and told.

Bits may still differ between machines, between versions of torch, and for another number of
threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic
from blake3 import blake3

from llamatools.reference.settings import processors

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def _flags() -> list[tuple[str, Any, str, Any]]:
    """(name in reports, object, attribute, value)"""
    matmul = torch.backends.cuda.matmul
    return [
        # New memory is all written to before it is read; filling it first takes time.
        (
            "fill_uninitialized_memory",
            torch.utils.deterministic,
            "fill_uninitialized_memory",
            False,
        ),
        ("cudnn_allow_tf32", torch.backends.cudnn, "allow_tf32", False),
        ("allow_fp16_reduced_precision", matmul, "allow_fp16_reduced_precision_reduction", False),
        ("allow_bf16_reduced_precision", matmul, "allow_bf16_reduced_precision_reduction", False),
    ]


@contextmanager
def deterministic(device: torch.device, threads: int | None) -> Iterator[dict[str, object]]:
    """While this lasts, torch is deterministic and fp32 is fp32. Yields what was set."""
    count = threads or processors()
    told: dict[str, object] = {
        "torch": torch.__version__,
        "threads": count,
        "deterministic_algorithms": True,
        "float32_matmul_precision": "highest",
    }
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(count)
        stack.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        torch.use_deterministic_algorithms(True)
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
        for name, home, attribute, value in _flags():
            stack.callback(setattr, home, attribute, getattr(home, attribute))
            setattr(home, attribute, value)
            told[name] = value
        if device.type == "cuda":
            told[_WORKSPACE] = _workspace(stack.callback)
            told["cuda"] = torch.version.cuda
        stack.enter_context(torch.no_grad())
        yield told


def _workspace(afterwards: Callable[..., Any]) -> str:
    """cuBLAS is deterministic with workspaces of its own; whoever has set them is believed."""
    if _WORKSPACE not in os.environ:
        os.environ[_WORKSPACE] = ":4096:8"
        afterwards(os.environ.pop, _WORKSPACE, None)
    return os.environ[_WORKSPACE]


_ROWS, _COLUMNS, _DEEP = 16, 64, 4096


def kernels(device: torch.device, dtype: torch.dtype) -> str:
    """A digest of products and a softmax, of which another order of sums makes other bits."""
    i = np.arange((_ROWS + _COLUMNS) * _DEEP)
    # Few bits at very different powers of two: exact in every type, unlike their sums.
    values = np.ldexp((i * 40503 % 65537 % 255 - 127).astype(np.float32), -(i % 13))
    drawn = torch.from_numpy(values).to(device, dtype).view(-1, _DEEP)
    product = torch.nn.functional.linear(drawn[:_ROWS], drawn[_ROWS:]).float()  # (_ROWS, _COLUMNS)
    found = torch.cat([product, torch.softmax(product / product.std(), -1)])
    return blake3(found.cpu().numpy().tobytes()).hexdigest(length=8)


def device_name(device: torch.device) -> str:
    """What the hardware calls itself, as far as torch knows."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"
