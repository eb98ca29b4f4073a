"""Factors on disk until all of them are known: a safetensors file begins with all names and shapes.

So memory holds one tensor's factors at a time, whatever the model's size.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

from llamatools.containers.base import InputFile, StoredTensor
from llamatools.dtypes import BY_TORCH
from llamatools.engine.newfile import NewFile
from llamatools.expr.nodes import Read


class Spool:
    """A file of numbers, removed with the context; write all, then read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out: NewFile | None = None
        self._input: InputFile | None = None
        self._kept: list[tuple[str, torch.dtype, tuple[int, ...], int]] = []
        self._size = 0

    def __enter__(self) -> Spool:
        self._out = NewFile(self._path)
        return self

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor under a name, in its own type and shape."""
        assert self._out is not None, "what is spooled can only be read once all of it is there"
        # Flat first: a side of one element has any stride, which a view of bytes does not take.
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        self._out.append(data)
        self._kept.append((name, tensor.dtype, tuple(tensor.shape), self._size))
        self._size += data.nbytes

    def finish(self) -> dict[str, Read]:
        """Everything that was added, to be read from the file as long as the context lasts."""
        self._close()
        self._input = InputFile(self._path)
        out = {}
        for name, dtype, shape, offset in self._kept:
            strides = (shape[1], 1) if len(shape) == 2 else (1,)
            known = BY_TORCH[str(dtype).removeprefix("torch.")]
            out[name] = Read(StoredTensor(name, known, shape, self._input, offset, strides))
        return out

    def _close(self) -> None:
        if self._out is None:
            return
        out, self._out = self._out, None
        out.finish(sync=False)

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self._close()
        finally:
            if self._input is not None:
                self._input.close()
            self._path.unlink(missing_ok=True)
