"""How a forward pass is run: in which type, on which device, within how much of its memory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamatools.dtypes import BY_NAME, DType
from llamatools.errors import UsageError
from llamatools.plan.build import DTYPES

if TYPE_CHECKING:
    import torch

TYPES: dict[str, DType] = {**DTYPES, "fp64": BY_NAME["F64"]}
"""Types that a forward pass can be computed in."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Settings:
    dtype: str = "fp32"
    """One of TYPES. Norms, softmax and angles are computed in fp32 at least."""
    device: str = "auto"
    """"auto", "cpu", "mps", "cuda" or "cuda:N"."""
    resident: bool = False
    """Weights stay on the device once they were read."""
    max_device_memory: int | None = None
    """Bytes; what would need more is refused before anything is read."""
    jobs: int | None = None
    """Threads that read; None: as many as there are processors, up to 4."""
    threads: int | None = None
    """Threads of a matrix product on a processor; None: all processors. They decide the last bits
    of results, so that all processes of a run need the same number."""
    timeout: int = 1800
    """Seconds that a process waits for another."""

    def __post_init__(self) -> None:
        """UsageError where a value is none that exists."""
        problems = []
        if self.dtype not in TYPES:
            problems.append(f"--dtype {self.dtype}: expected one of {', '.join(TYPES)}")
        if not _DEVICE.fullmatch(self.device):
            problems.append(f"--device {self.device}: expected auto, cuda, cuda:N, mps or cpu")
        numbers = {
            "max_device_memory": self.max_device_memory, "jobs": self.jobs,
            "threads": self.threads, "timeout": self.timeout,
        }  # fmt: skip
        problems += [f"{k} must be positive" for k, v in numbers.items() if v is not None and v < 1]
        if problems:
            raise UsageError(problems)

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        found: torch.dtype = getattr(torch, TYPES[self.dtype].torch)
        return found


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The type for what a narrow one would spoil."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def processors() -> int:
    """As many as this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_device(settings: Settings, local_rank: int = 0) -> torch.device:
    """The device asked for; of several GPUs that `local_rank` counts, where no number is given.

    UsageError where this machine, or this torch, has none.
    """
    import torch

    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else _without_cuda(settings)
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise UsageError(
                f"--device {name}: torch {torch.__version__} finds {count} such devices here",
                hint="one process for each GPU" if count else "--device cpu works everywhere",
            )
        return torch.device("cuda", index)
    if device.type == "mps":
        _check_mps(settings)
    return device


def _without_cuda(settings: Settings) -> str:
    import torch

    return "mps" if torch.backends.mps.is_available() and settings.dtype != "fp64" else "cpu"


def _check_mps(settings: Settings) -> None:
    import torch

    if not torch.backends.mps.is_available():
        raise UsageError(
            f"--device mps: torch {torch.__version__} finds no such device here",
            hint="--device cpu works everywhere",
        )
    if settings.dtype == "fp64":
        raise UsageError("--device mps has no fp64", hint="--device cpu does")
