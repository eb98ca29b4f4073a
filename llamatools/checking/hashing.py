"""Digests of many files: each is read once, whatever its digests, a few of them at a time."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, IOFailed

_BLOCK = 4 << 20
_LEAST_BLOCK = 64 << 10
_JOBS = 4


class Hasher(Protocol):
    def update(self, data: memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Algorithm:
    """A digest of files. `start` is given the size of the file, and how many threads it may use."""

    name: str
    digits: int
    start: Callable[[int, int], Hasher]


def _plain(name: str, digits: int, key: str) -> Algorithm:
    return Algorithm(name, digits, lambda size, threads: hashlib.new(key, usedforsecurity=False))


def _git(size: int, threads: int) -> Hasher:
    """A blob's name in git: its SHA-1 with a heading."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


BLAKE3 = Algorithm("BLAKE3", 64, lambda size, threads: blake3(max_threads=threads))
SHA256 = _plain("SHA-256", 64, "sha256")
GIT = Algorithm("git's SHA-1", 40, _git)
BY_DIGITS = {
    a.digits: a
    for a in (
        _plain("MD5", 32, "md5"),
        _plain("SHA-1", 40, "sha1"),
        _plain("SHA-224", 56, "sha224"),
        SHA256,
        _plain("SHA-384", 96, "sha384"),
        _plain("SHA-512", 128, "sha512"),
    )
}
"""What a list's digests are, unless it says otherwise."""

Found = Mapping[Algorithm, str]
"""The digests of one file."""


def digest_files(
    files: Mapping[Path, Collection[Algorithm]],
    *,
    jobs: int | None = None,
    max_memory: int,
    progress: Callable[[int], None],
) -> dict[Path, Found | BadInput | IOFailed]:
    """The digests of every file, or why it has none. One that fails stops no other."""
    workers = min(jobs or min(_JOBS, os.cpu_count() or 1), max(1, len(files)))
    block = max(_LEAST_BLOCK, min(_BLOCK, max_memory // workers))
    threads = max(1, (jobs or os.cpu_count() or 1) // workers)
    stop = threading.Event()
    reader = _Reader(block, threads, progress, stop)
    pool = ThreadPoolExecutor(workers)
    try:
        tasks = {path: pool.submit(reader.read, path, wanted) for path, wanted in files.items()}
        return {path: task.result() for path, task in tasks.items()}
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Reader:
    block: int
    threads: int
    progress: Callable[[int], None]
    stop: threading.Event

    def read(self, path: Path, wanted: Collection[Algorithm]) -> Found | BadInput | IOFailed:
        try:
            file = InputFile(path)
        except (BadInput, IOFailed) as e:
            return e
        try:
            return self._digests(file, wanted)
        except (BadInput, IOFailed) as e:
            return e
        finally:
            file.close()

    def _digests(self, file: InputFile, wanted: Collection[Algorithm]) -> Found:
        hashers = {a: a.start(file.size, self.threads) for a in wanted}
        file.forget()
        buffer = memoryview(bytearray(min(self.block, file.size)))
        for at in range(0, file.size, max(1, len(buffer))):
            if self.stop.is_set():
                break
            part = buffer[: min(len(buffer), file.size - at)]
            file.read_into(part, at)
            for hasher in hashers.values():
                hasher.update(part)
            self.progress(len(part))
        return {a: hasher.hexdigest() for a, hasher in hashers.items()}
