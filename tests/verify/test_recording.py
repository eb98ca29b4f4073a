"""What is kept of a run's logits is what goes into the file, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamatools.golden.prompts import contiguous
from llamatools.golden.record import Recorder
from llamatools.reference.observe import Point

VOCABULARY = 32_000
PROMPTS = [contiguous(f"p{i}", [1, 2, 3]) for i in range(4)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def _logits(i: int, dtype: torch.dtype, vocabulary: int = VOCABULARY) -> torch.Tensor:
    generator = torch.Generator().manual_seed(i)
    return torch.randn(3, vocabulary, generator=generator).to(dtype)


def _memory(x: object) -> dict[int, int]:
    """What an object holds on to in arrays: address -> bytes of all that a view is of."""
    if isinstance(x, np.ndarray | torch.Tensor):
        while isinstance(x, np.ndarray):
            if x.base is None:
                return {id(x): x.nbytes}
            x = x.base
        assert isinstance(x, torch.Tensor), "memory of something else"
        return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}
    inside: list[object] = []
    if isinstance(x, dict):
        inside = list(x.values())
    elif isinstance(x, list | tuple):
        inside = list(x)
    elif hasattr(x, "__dict__"):
        inside = list(vars(x).values())
    return {at: size for part in inside for at, size in _memory(part).items()}


def test_memory_is_that_of_what_a_view_is_of() -> None:
    logits = _logits(0, torch.float32)
    assert sum(_memory([logits[-1:], logits.numpy()[-1:]]).values()) == 4 * 3 * VOCABULARY
    assert sum(_memory({1: (logits[-1:].numpy().copy(),)}).values()) == 4 * VOCABULARY


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_of_a_large_vocabulary_the_last_rows_are_kept(dtype: torch.dtype) -> None:
    """In the bytes that are written."""
    recorder = Recorder(PROMPTS)
    for i in range(len(PROMPTS)):
        _show(recorder, i, dtype)
    kept = sum(_memory(recorder).values()) / len(PROMPTS)
    row = max(4, dtype.itemsize) * VOCABULARY
    assert row <= kept < 1.1 * row


def _show(recorder: Recorder, i: int, dtype: torch.dtype) -> None:
    recorder.hidden(i, Point("embedding"), torch.ones(3, 8, dtype=dtype))
    recorder.logits(i, range(3), _logits(i, dtype))


@pytest.mark.parametrize("vocabulary", [100, VOCABULARY])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_that_is_kept_is_the_runs_own(dtype: torch.dtype, vocabulary: int) -> None:
    """Whose memory may hold other numbers a moment later."""
    recorder = Recorder(PROMPTS[:1])
    x, h = _logits(0, dtype, vocabulary), torch.ones(3, 8, dtype=dtype)
    wanted = x.double().numpy().copy()
    recorder.hidden(0, Point("embedding"), h)
    recorder.logits(0, range(3), x)
    x.zero_()
    h.zero_()
    found = recorder.finish()[0]
    assert found.full is not None and found.hidden is not None and found.digest is not None
    rows = found.full.shape[0]
    assert rows == (3 if vocabulary == 100 else 1)
    assert np.array_equal(found.full.read(0, rows), wanted[-rows:]), "exact in any type"
    assert np.array_equal(found.digest.top_values[:, 0], wanted.max(axis=1))
    assert (found.hidden.rms == 1).all()
