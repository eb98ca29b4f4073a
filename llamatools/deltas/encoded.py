"""XOR files: whole files of a model, XORed with a weight file that only its owners have.

    NAME.<SHA-256 of the plain file, hexadecimal>.enc:
        32 bytes    the same SHA-256
        payload     the plain file, in chunks of 10 MiB, each XORed with a chunk of the key

The key is read in chunks of 10 MiB too, from its beginning again where it has ended. A chunk that
its end cuts short is repeated as often as needed, and the next one is the first again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, UsageError
from llamatools.opening.folder import Folder, scan
from llamatools.text import listing, nbytes, safe

ENDING = ".enc"
CHUNK = 10 << 20
_DIGEST_BYTES = 32
_NAME = re.compile(r"(?P<plain>.*)\.(?P<digest>[0-9a-fA-F]{64})\.enc", re.DOTALL)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Encoded:
    """One XOR file."""

    plain: str
    """Name of the plain file."""
    sha256: str
    """Of the plain file."""
    file: InputFile

    @property
    def size(self) -> int:
        """Bytes of the plain file."""
        return self.file.size - _DIGEST_BYTES

    def read(self, offset: int, size: int) -> Bytes:
        """Bytes of the payload."""
        block = np.empty(size, np.uint8)
        self.file.read_into(block.data, _DIGEST_BYTES + offset)
        return block


class Key:
    """A file as an endless row of chunks."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        if not file.size:
            raise BadInput(f"{safe(file.path)}: an empty file is no key")

    def xor(self, block: Bytes, offset: int) -> None:
        """XOR what stands at `offset` of a payload with its part of the key."""
        at = 0
        for start, size, skip, stop in self._runs(offset, len(block)):
            run = block[at:stop]
            if size <= len(run):  # a short chunk, over and over
                key = self._read(start, size)
                np.bitwise_xor(run, np.resize(np.roll(key, -skip), len(run)), out=run)
            else:
                np.bitwise_xor(run, self._read(start + skip, len(run)), out=run)
            at = stop

    def _runs(self, offset: int, size: int) -> Iterator[tuple[int, int, int, int]]:
        """(start of a key chunk, its size, bytes of it to skip, end of the run in the block)."""
        chunks = -(-self.file.size // CHUNK)
        at = 0
        while at < size:
            number, within = divmod(offset + at, CHUNK)
            start = number % chunks * CHUNK
            length = min(CHUNK, self.file.size - start)
            skip = within % length
            end = min(size, at + CHUNK - within)
            if length > end - at:  # up to the end of the key's chunk, which then begins again
                end = min(end, at + length - skip)
            yield start, length, skip, end
            at = end

    def _read(self, offset: int, size: int) -> Bytes:
        block = np.empty(size, np.uint8)
        self.file.read_into(block.data, offset)
        return block


def is_encoded(folder: Folder) -> bool:
    """Whether a folder is one of XOR files."""
    return any(name.endswith(ENDING) for name in folder.names | folder.rejected)


def open_encoded(folder: Folder) -> list[Encoded]:
    """Every XOR file of a folder, by name. BadInput lists everything that is wrong with them."""
    if folder.chosen is not None:
        raise UsageError(
            f"{safe(folder.chosen)} is one of the files of a delta",
            hint=f"give the folder instead: {safe(folder.path)}",
        )
    where = safe(folder.path)
    problems: list[str] = []
    away = sorted(n for n in folder.rejected if n.endswith(ENDING))
    if away:
        problems.append(
            f"{where}: not regular files, or links that lead out of the folder: {listing(away)}"
        )
    found: dict[str, Encoded] = {}
    try:
        for name in sorted(n for n in folder.names if n.endswith(ENDING)):
            problem = _add(folder.path, name, found)
            if problem:
                problems.append(f"{where}: {safe(name)}: {problem}")
        if problems:
            raise BadInput(problems[:20], hint="fetch the delta again, all of its files")
    except BaseException:
        close(found.values())
        raise
    return list(found.values())


def _add(folder: Path, name: str, found: dict[str, Encoded]) -> str | None:
    """Open one file; what is wrong with it, if anything is."""
    match = _NAME.fullmatch(name)
    if match is None:
        return "expected NAME.<SHA-256>.enc"
    plain, digest = match["plain"], match["digest"].lower()
    if not _is_plain(plain):
        return "the name of the plain file is none that is written"
    if plain in found:
        return f"a second file that makes {safe(plain)}"
    file = InputFile(folder / name)
    entry = Encoded(plain, digest, file)
    if entry.size < 0:
        file.close()
        return f"{nbytes(file.size)} are too few for its SHA-256"
    stated = file.read(0, _DIGEST_BYTES).hex()
    if stated != digest:
        file.close()
        return f"its name says SHA-256 {digest[:16]}..., its first bytes {stated[:16]}..."
    found[plain] = entry
    return None


def _is_plain(name: str) -> bool:
    """Whether a name is one of a file in the output folder itself, which people can read."""
    return name.isprintable() and name == Path(name).name != "" and not name.startswith(".")


def close(files: Iterable[Encoded]) -> None:
    """Close what was opened."""
    for entry in files:
        entry.file.close()


def open_key(base: str | Path) -> Key:
    """The base's one weight file, or the first of its folder."""
    folder = scan(Path(base))
    return Key(InputFile(folder.path / (folder.chosen or folder.weights[0])))
