"""Arrays by name from safetensors or from numpy's .npz, read only when they are asked for."""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import IO, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from llamatools.containers.base import InputFile, StoredTensor
from llamatools.containers.safetensors_read import read_safetensors
from llamatools.errors import BadInput
from llamatools.golden.model import InMemory, Logits
from llamatools.golden.sketch import Floats
from llamatools.golden.stored import FLOATS, INTEGERS, InFile, finite, read_numbers
from llamatools.text import nbytes, safe

_RATIO = 20
"""More than any logits shrink by; what unpacks to more would fill the memory."""
_SMALL = 64 << 20
_MAX_MEMBERS = 100_000
_MAX_HEADER = 10_000
_NPZ_FLOATS = ("float64", "float32", "float16")


class Array(Protocol):
    """An array whose data has not been read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def kind(self) -> str:
        """ "float", "integer", or the name of a type that is neither."""
        ...

    @property
    def dtype(self) -> str:
        """The type of its elements, as torch names it."""
        ...

    def read(self) -> Floats:
        """All of it, finite, as float64 or int64."""
        ...

    def logits(self) -> Logits:
        """An array of two axes as rows of logits."""
        ...


Arrays = Mapping[str, Array]


def read_arrays(file: InputFile) -> Arrays:
    """The arrays of a file of either kind, by their names in it."""
    if file.size >= 2 and file.read(0, 2) == b"PK":
        return _read_npz(file)
    return {name: _InSafetensors(t) for name, t in read_safetensors(file).tensors.items()}


@dataclass(frozen=True)
class _InSafetensors:
    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def kind(self) -> str:
        name = self.tensor.dtype.name
        return "float" if name in FLOATS else "integer" if name in INTEGERS else name

    @property
    def dtype(self) -> str:
        return self.tensor.dtype.torch

    def read(self) -> Floats:
        where = f"{safe(self.tensor.file.path)}: {safe(self.tensor.name)}"
        return finite(read_numbers(self.tensor), where)

    def logits(self) -> Logits:
        return InFile(self.tensor)


@dataclass(frozen=True)
class _InNpz:
    """A member of a zip archive; one that is read is unpacked whole."""

    archive: zipfile.ZipFile
    name: str
    where: str

    @cached_property
    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
        with self.archive.open(self.name) as stream:
            return _read_header(stream, self.where)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._header[0]

    @property
    def kind(self) -> str:
        name = self.dtype
        if self._header[2].kind != "f":
            return "integer"
        return "float" if name in _NPZ_FLOATS else name  # longdouble differs between machines

    @property
    def dtype(self) -> str:
        return str(self._header[2].name)

    def _values(self) -> NDArray[np.generic]:
        shape, fortran, dtype = self._header
        try:
            data = self.archive.read(self.name)
            stream = BytesIO(data)
            _read_header(stream, self.where)
            flat = np.frombuffer(data, dtype, offset=stream.tell())
            return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
        except (ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as e:
            raise BadInput(f"{self.where}: {safe(e)}") from None
        except zipfile.BadZipFile as e:
            raise BadInput(f"{self.where}: {safe(e)}") from None

    def read(self) -> Floats:
        wide = np.float64 if self.kind == "float" else np.int64
        return finite(self._values().astype(wide), self.where)

    def logits(self) -> Logits:
        values = self._values()
        finite(values, self.where)  # type: ignore[arg-type]
        return InMemory(values)  # type: ignore[arg-type]


def _read_header(
    stream: IO[bytes], where: str
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, order and type of an .npy stream, which is left where the data begins."""
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers by Python 2, or that are nearly code
            shape, fortran, dtype = read(stream, max_header_size=_MAX_HEADER)
        if not all(type(n) is int and 0 <= n <= sys.maxsize for n in shape):  # True is an int too
            raise ValueError(f"a shape of {shape}")
    except Exception as e:  # numpy parses the header as Python, and raises whatever that does
        raise BadInput(f"{where}: not an array of numpy's: {safe(e)}") from None
    if dtype.hasobject or dtype.kind not in "fiu" or dtype.byteorder == ">":
        raise BadInput(f"{where}: elements of type {safe(dtype)}; expected numbers")
    return shape, fortran, dtype


def _read_npz(file: InputFile) -> Arrays:
    where = safe(file.path)
    try:
        archive = zipfile.ZipFile(file.path)
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        raise BadInput(f"{where}: not a zip archive that can be read: {safe(e)}") from None
    total = sum(m.file_size for m in members)
    problems = []
    if len(members) > _MAX_MEMBERS or total > _SMALL + _RATIO * file.size:
        problems.append(f"{where}: {len(members):,} arrays of {nbytes(total)} are too much")
    if len({m.filename for m in members}) != len(members):
        problems.append(f"{where}: two arrays have one name")
    strange = [m.filename for m in members if not m.filename.endswith(".npy")]
    problems += [f"{where}: {safe(n)}: not an array" for n in strange[:5]]
    if problems:
        raise BadInput(problems)
    names = [m.filename for m in members]
    return {n.removesuffix(".npy"): _InNpz(archive, n, f"{where}: {safe(n)}") for n in names}
