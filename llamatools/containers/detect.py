"""Decides what a file is by its first bytes, never by the ending of its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamatools.containers.base import Container, InputFile
from llamatools.containers.safetensors_read import LENGTH_BYTES, MAX_HEADER, read_safetensors
from llamatools.containers.torchzip_read import read_torch
from llamatools.errors import BadInput, Unsupported
from llamatools.text import safe

_HEAD = 512


def open_container(source: Path | InputFile) -> Container:
    """The tensors of a safetensors or torch file; nothing of their data is read.

    Raises BadInput or Unsupported for anything else, by name where the kind is known.
    """
    file = source if isinstance(source, InputFile) else InputFile(source)
    head = file.read(0, min(_HEAD, file.size))
    # First: a header length may begin like any other format's magic, which has no "{" there.
    if _is_safetensors(head):
        return read_safetensors(file)
    if head.startswith(b"PK\3\4"):
        return read_torch(file)
    raise _refusal(head, file)


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return length <= MAX_HEADER and head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


@dataclass(frozen=True)
class _Kind:
    """A kind of file that is told apart only to say what can be done about it."""

    magic: bytes
    what: str
    hint: str
    error: type[BadInput] = Unsupported
    at: int = 0


_RESAVE = (
    "if you trust where it came from, load it with torch.load(..., weights_only=True) and save it "
    "again with torch.save(state_dict, ...)"
)
_CONVERT = "convert it to safetensors with the program that wrote it"
_UNPACK = "unpack it, and give the files in it"
_AGAIN = "download it again"
_LFS = "fetch the file itself with: git lfs pull"

_KINDS = (
    _Kind(b"GGUF", "a GGUF file", _CONVERT),
    _Kind(b"lmgg", "a GGML file", _CONVERT),
    _Kind(b"fmgg", "a GGML file", _CONVERT),
    _Kind(b"tjgg", "a GGML file", _CONVERT),
    _Kind(b"algg", "a GGML adapter", _CONVERT),
    _Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
    _Kind(b"\x93NUMPY", "a NumPy array", _CONVERT),
    _Kind(b"\x80", "a torch checkpoint of the format before 1.6, or a bare pickle", _RESAVE),
    _Kind(b"ustar", "a tar archive", _UNPACK, at=257),
    _Kind(b"\x1f\x8b", "a gzip file", _UNPACK),
    _Kind(b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    _Kind(b"\xfd7zXZ\0", "an xz file", _UNPACK),
    _Kind(b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    _Kind(b"PK\5\6", "an empty zip archive", _AGAIN, BadInput),
    _Kind(b"version https://git-lfs.github.com/spec/", "a git-lfs pointer", _LFS, BadInput),
    _Kind(b"<", "a web page or an error message in XML", _AGAIN, BadInput),
    _Kind(b"\0" * 16, "zeros where its first bytes should be", _AGAIN, BadInput),
)


def _refusal(head: bytes, file: InputFile) -> BadInput:
    """The error for a file that is no container, by name where its first bytes tell."""
    where = safe(file.path)
    if not head:
        return BadInput(f"{where}: an empty file", hint=_AGAIN)
    for kind in _KINDS:
        if head.startswith(kind.magic, kind.at):
            return kind.error(f"{where}: {kind.what}, not a checkpoint", hint=kind.hint)
    return BadInput(
        f"{where}: not a checkpoint file: neither safetensors nor a torch zip archive",
        hint="expected .safetensors, or .pth and .bin as torch.save writes them",
    )
