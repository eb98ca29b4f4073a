"""Adapters merged by the command, and held against tensors worked out otherwise."""

from __future__ import annotations

from pathlib import Path

import torch

from support.calls import Called, call
from support.tiny import Tensors
from support.tiny_files import read_hf


def merged(base: Path, adapter: Path, out: Path, *more: object) -> Tensors:
    """Every tensor of the result, in Hugging Face's layout and fp32."""
    done = call("merge-lora", base, adapter, out, "--to", "hf", "--dtype", "fp32", *more)
    assert done.code == 0, done.err
    return read_hf(out)


def differ(found: Tensors, wanted: Tensors) -> list[str]:
    """Names of the tensors that are not what is wanted, to fp32's rounding."""
    return [
        n
        for n, t in wanted.items()
        if not torch.allclose(found[n].double(), t, rtol=1e-6, atol=1e-7)
    ]


def refused(base: Path, adapter: Path) -> Called:
    """A merge that must end as bad input, with nothing left."""
    out = adapter.parent / "refused"
    done = call("merge-lora", base, adapter, out)
    assert done.code == 3, done.err
    assert not out.exists()
    assert "Traceback" not in done.err
    return done
