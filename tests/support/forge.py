"""Makes checkpoint files by hand, sound ones and ones that lie."""

from __future__ import annotations

import io
import json
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2, _rebuild_tensor_v3

from llamatools.containers.base import FileLayout
from llamatools.errors import BadInput

Refused = Callable[..., BadInput]
"""The fixture `refused`: (data, *words, error=BadInput) -> the error."""


def fill(layout: FileLayout, payloads: Sequence[bytes], path: Path) -> Path:
    """Write a planned file, and hold the plan to its promises."""
    crcs: list[int] = []
    with path.open("wb") as out:
        for i, (slot, payload) in enumerate(zip(layout.slots, payloads, strict=True)):
            out.write(layout.literal(i, crcs))
            assert out.tell() == slot.start
            out.write(payload)
            assert out.tell() == slot.stop
            crcs.append(zlib.crc32(payload))
        out.write(layout.literal(len(layout.slots), crcs))
        assert out.tell() == layout.size
    return path


# -- safetensors


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(start: int, stop: int, shape: Sequence[object], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


# -- zip


@dataclass
class Entry:
    """A zip entry; `local` and `central` replace fields of one header only."""

    name: str | bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0x0800
    descriptor: bytes = b""
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)


def zip_bytes(
    entries: Sequence[Entry],
    *,
    comment: bytes = b"",
    end: Mapping[str, int] | None = None,
    zip64: Mapping[str, int] | None = None,
    prefix: bytes = b"",
    junk: bytes = b"",
) -> bytes:
    """An archive; `end` and `zip64` replace fields of the end records; `junk` precedes them."""
    body, directory = bytearray(prefix), bytearray()
    for e in entries:
        fields = _fields(e, len(body))
        local, central = fields | dict(e.local), fields | dict(e.central)
        directory += _central_header(central)
        body += _local_header(local) + fields["packed"] + e.descriptor
    n, size, at = len(entries), len(directory), len(body)
    tail = b""
    if zip64 is not None:
        z = {"here": n, "n": n, "size": size, "at": at, "rest": 44, "end64": at + size} | dict(
            zip64
        )
        tail += pack("<4sQ2H2L", b"PK\6\6", z["rest"], 45, 45, 0, 0)
        tail += pack("<4Q", z["here"], z["n"], z["size"], z["at"])
        tail += pack("<4sLQL", b"PK\6\7", 0, z["end64"], 1)
    f = {"disk": 0, "here": n, "n": n, "size": size, "at": at, "comment": len(comment)}
    f |= dict(end or {})
    tail += pack("<4s4H", b"PK\5\6", f["disk"], f["disk"], f["here"], f["n"])
    tail += pack("<2LH", f["size"], f["at"], f["comment"])
    return bytes(body + directory + junk + tail + comment)


def _fields(e: Entry, at: int) -> dict[str, Any]:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(e.data) + deflate.flush() if e.method == 8 else e.data
    return {
        "name": e.name if isinstance(e.name, bytes) else e.name.encode(),
        "method": e.method,
        "flags": e.flags,
        "crc": zlib.crc32(e.data),
        "compressed": len(packed),
        "size": len(e.data),
        "header": at,
        "disk": 0,
        "extra": b"",
        "packed": packed,
        "signature": None,
    }


def _local_header(f: Mapping[str, Any]) -> bytes:
    return (
        pack("<4s5H", f["signature"] or b"PK\3\4", 20, f["flags"], f["method"], 0, 33)
        + pack("<3L2H", f["crc"], f["compressed"], f["size"], len(f["name"]), len(f["extra"]))
        + f["name"]
        + f["extra"]
    )


def _central_header(f: Mapping[str, Any]) -> bytes:
    return (
        pack("<4s6H", f["signature"] or b"PK\1\2", 20, 20, f["flags"], f["method"], 0, 33)
        + pack("<3L2H", f["crc"], f["compressed"], f["size"], len(f["name"]), len(f["extra"]))
        + pack("<3H2L", 0, f["disk"], 0, 0, f["header"])
        + f["name"]
        + f["extra"]
    )


# -- torch


@dataclass
class FakeStorage:
    """Pickled as a persistent id."""

    key: object = "0"
    numel: object = 4
    cls: object = torch.FloatStorage
    location: object = "cpu"
    kind: object = "storage"


@dataclass
class FakeTensor:
    """Pickled as a call of torch's rebuild function with any arguments whatever."""

    storage: object = field(default_factory=FakeStorage)
    offset: object = 0
    shape: object = (4,)
    strides: object = (1,)
    hooks: object = field(default_factory=OrderedDict)
    dtype: torch.dtype | None = None
    more: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        args = (self.storage, self.offset, self.shape, self.strides, False, self.hooks)
        if self.dtype is not None:
            return _rebuild_tensor_v3, (*args, self.dtype, *self.more)
        return _rebuild_tensor_v2, (*args, *self.more)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, FakeStorage):
            return (obj.kind, obj.cls, obj.key, obj.location, obj.numel)
        return None


def pickled(obj: object, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol, fix_imports=False).dump(obj)  # no Python 2 names in protocol 2
    return out.getvalue()


def torch_bytes(
    obj: object, storages: Mapping[str, bytes] | None = None, **zip_options: Any
) -> bytes:
    """A torch checkpoint around `obj` (pickle bytes are taken as they are)."""
    data = obj if isinstance(obj, bytes) else pickled(obj)
    storages = {"0": bytes(16)} if storages is None else storages
    records = [Entry("m/data.pkl", data), Entry("m/byteorder", b"little")]
    records += [Entry(f"m/data/{key}", value) for key, value in storages.items()]
    records += [Entry("m/version", b"3\n")]
    return zip_bytes(records, **zip_options)
