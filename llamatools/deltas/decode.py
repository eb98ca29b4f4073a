"""`apply-delta` of XOR files: the plain files, checked against their SHA-256 and published.

Nothing of ours is put beside them: they are the publishers' files, byte for byte, and what proves
them is in the names of the delta's. What was done is said on the terminal, and by --json.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llamatools._version import __version__
from llamatools.checkpoint import open_checkpoint
from llamatools.deltas.encoded import CHUNK, Encoded, Key, close, open_encoded, open_key
from llamatools.engine.newfile import NewFile
from llamatools.engine.outcome import Begin
from llamatools.engine.place import staging
from llamatools.engine.publish import publish
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.engine.targets import check_paths, check_space
from llamatools.errors import CheckFailed, LlamatoolsError, UsageError
from llamatools.opening.folder import scan
from llamatools.text import nbytes, safe

SCHEMA = "urn:llamatools:decoded:1"
_PIECE = 1 << 20
_LEAST_PIECE = 4 << 10
_PER_PIECE = 5
"""Blocks of a piece's size that a worker holds: payload, key, and the steps to a key repeated."""


@dataclass(frozen=True)
class Decoding:
    """XOR files that are opened and checked, as far as that goes without their data."""

    files: tuple[Encoded, ...]
    key: Key
    out: Path
    jobs: int
    piece: int
    """Bytes that a worker decodes at once."""
    force: bool

    @property
    def total(self) -> int:
        return sum(f.size for f in self.files)

    def close(self) -> None:
        close(self.files)
        self.key.file.close()

    def __enter__(self) -> Decoding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def decode_delta(
    base: str | Path,
    delta: str | Path,
    out: str | Path,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> dict[str, object]:
    """Decode a folder of XOR files with the base's weight file; returns the report."""
    with prepare_decoding(
        base, delta, out, jobs=jobs, max_memory=max_memory, force=force
    ) as decoding:
        return run_decoding(decoding)


def prepare_decoding(
    base: str | Path,
    delta: str | Path,
    out: str | Path,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> Decoding:
    """Open key and files, and check everything that can be checked before writing."""
    for path in (base, delta):
        check_paths(Path(path), Path(out), force=force)
    workers = jobs or min(4, os.cpu_count() or 1)
    while workers > 1 and max_memory // (workers * _PER_PIECE) < _PIECE:
        workers -= 1
    piece = min(_PIECE, max_memory // (workers * _PER_PIECE))
    if piece < _LEAST_PIECE:
        raise UsageError(
            f"--max-memory {nbytes(max_memory)} is too little: "
            f"{nbytes(_LEAST_PIECE * _PER_PIECE)} are needed"
        )
    files = open_encoded(scan(Path(delta)))
    try:
        key = open_key(base)
    except BaseException:
        close(files)
        raise
    return Decoding(tuple(files), key, Path(out), workers, piece, force)


def report(decoding: Decoding, model: dict[str, object] | None) -> dict[str, object]:
    """What --json prints; schemas/decoded.json describes it. `model`: None, before it is known."""
    key = decoding.key.file
    return {
        "$schema": SCHEMA,
        "tool": {"name": "llamatools", "version": __version__},
        "out": str(decoding.out),
        "key": {"name": key.name, "bytes": key.size},
        "model": model,
        "files": [{"name": f.plain, "bytes": f.size, "sha256": f.sha256} for f in decoding.files],
    }


def run_decoding(
    decoding: Decoding, begin: Begin = lambda total: lambda done: None
) -> dict[str, object]:
    """Decode every file, look at the result as at any checkpoint, and publish it."""
    check_space(decoding.out, decoding.total)
    progress = begin(decoding.total)
    with staging(decoding.out, force=decoding.force) as folder:
        # Small ones first: a wrong key is found out before gigabytes are decoded with it.
        small = [f for f in decoding.files if f.size <= CHUNK]
        large = [f for f in decoding.files if f.size > CHUNK]
        for some in (small, large):
            _check(decoding, some, _decode_all(decoding, some, folder, progress))
        model = _look(folder, decoding.out)
        publish(folder, decoding.out, force=decoding.force)
    return report(decoding, model)


def _check(decoding: Decoding, files: Iterable[Encoded], found: Iterable[str]) -> None:
    wrong = [
        f"{safe(f.plain)}: SHA-256 {digest[:16]}..., the delta says {f.sha256[:16]}..."
        for f, digest in zip(files, found, strict=True)
        if f.sha256 != digest
    ]
    if wrong:
        key = decoding.key.file
        raise CheckFailed(
            wrong[:20],
            hint=f"is {safe(key.name)} of {nbytes(key.size)} the very file the delta was made "
            "with (mostly consolidated.00.pth of Meta's release)? Or the delta is damaged",
        )


def _look(folder: Path, out: Path) -> dict[str, object]:
    """What the decoded files are as a checkpoint; raises where they are none."""
    try:
        with open_checkpoint(folder, probe=False) as opened:
            return {
                "title": opened.identity.title,
                "layout": opened.layout.name,
                "container": opened.container,
                "conflicts": list(opened.conflicts),
                "notes": list(opened.notes),
            }
    except LlamatoolsError as e:
        problems = [p.replace(safe(folder), safe(out)) for p in e.problems]
        raise type(e)(
            ["every file is as the delta says, but they make no checkpoint:", *problems],
            hint=e.hint,
        ) from e


def _decode_all(
    decoding: Decoding, files: Iterable[Encoded], folder: Path, progress: Callable[[int], None]
) -> list[str]:
    """Decode files, several at once; returns their SHA-256. The first failure stops all."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(decoding.jobs)
    try:
        tasks = [pool.submit(_decode, decoding, f, folder, progress, stop) for f in files]
        return [t.result() for t in tasks]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(
    decoding: Decoding,
    entry: Encoded,
    folder: Path,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> str:
    """Write one plain file, synced; returns the SHA-256 of what was written."""
    hasher = hashlib.sha256()
    out = NewFile(folder / entry.plain)
    try:
        for block in _blocks(decoding, entry):
            if stop.is_set():
                break
            hasher.update(block)
            out.append(block)
            progress(len(block))
        out.finish()
    finally:
        out.drop()
    return hasher.hexdigest()


def _blocks(decoding: Decoding, entry: Encoded) -> Iterator[memoryview]:
    for at in range(0, entry.size, decoding.piece):
        block = entry.read(at, min(decoding.piece, entry.size - at))
        decoding.key.xor(block, at)
        yield block.data
