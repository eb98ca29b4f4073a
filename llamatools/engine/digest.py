"""Digests: of one tensor, of a model, of a file.

A tensor's digest is the BLAKE3 of "DTYPE d0xd1\\n" followed by its canonical bytes (row-major,
little-endian). A model's fingerprint is the BLAKE3 of a heading line and one line "name digest"
per tensor, sorted. A head that equals the embedding is left out, so that a model has one
fingerprint whether its layout stores the tied head or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from blake3 import blake3

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.containers.base import InputFile
from llamatools.dtypes import DType

_HEADING = b"llamatools fingerprint 1\n"


def tensor_hasher(dtype: DType, shape: tuple[int, ...]) -> blake3:
    """A hasher that has taken in the tensor's type and shape; feed it the bytes."""
    return blake3(f"{dtype.name} {'x'.join(map(str, shape))}\n".encode())


def file_digest(path: Path, progress: Callable[[int], None]) -> tuple[int, str]:
    """(size, BLAKE3) of a file as the disk has it, if the system lets go of its copy."""
    file, hasher = InputFile(path), blake3()
    try:
        file.forget()
        for block in file.blocks():
            hasher.update(block)
            progress(len(block))
    finally:
        file.close()
    return file.size, hasher.hexdigest()


def fingerprint(digests: Mapping[str, str]) -> str:
    """The model's digest from its tensors' ({canonical name: hex digest})."""
    h = blake3(_HEADING)
    for name in sorted(digests):
        if name == HEAD and digests[name] == digests.get(EMBEDDING):
            continue
        h.update(f"{name} {digests[name]}\n".encode())
    return h.hexdigest()
