"""Sound torch archives that strict readers tend to refuse. Each holds kit.MODEL."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any

import torch
from kit import MODEL, NORM, UP, archive, bin_folder, data, forged, put, records, with_state
from support.forge import Entry, FakeStorage, FakeTensor, pickled, zip_bytes
from support.tiny import Tensors, Tiny
from support.tiny_files import hf_config

Make = Callable[[Path], Path | None]
Edit = Callable[[dict[str, Any], dict[str, bytes]], object]


def zipped(edit: Callable[[list[Entry]], object] = lambda e: None, **options: Any) -> Make:
    return lambda folder: put(folder, bin_folder(archive(edit, **options)))


def state(edit: Edit) -> Make:
    return lambda folder: put(folder, bin_folder(with_state(edit)))


def pickles(program: Callable[[dict[str, Any]], bytes]) -> Make:
    def make(folder: Path) -> None:
        made, storages = forged()
        put(folder, bin_folder(zip_bytes(records(program(made), storages))))

    return make


def torch_saved(tensors: Callable[[], Any], model: Tiny = MODEL) -> Make:
    def make(folder: Path) -> None:
        put(folder, {"config.json": json.dumps(hf_config(model)).encode()})
        torch.save(tensors(), folder / "pytorch_model.bin")

    return make


def without_crcs(entries: list[Entry]) -> None:
    for e in entries:
        e.local = e.central = {"crc": 0}


def in_zip64(entries: list[Entry]) -> None:
    """Sizes of 64 bits, though nothing is large."""
    for e in entries:
        n = len(e.data)
        extra = pack("<2H2Q", 1, 16, n, n)
        e.local = e.central = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF, "extra": extra}


def described(entries: list[Entry]) -> None:
    """Sizes and CRCs behind the data, as torch writes them to a pipe."""
    for e in entries:
        e.flags |= 8
        e.local = {"crc": 0, "size": 0, "compressed": 0}
        e.descriptor = b"PK\7\10" + pack("<3L", zlib.crc32(e.data), len(e.data), len(e.data))


def deflated(entries: list[Entry]) -> None:
    for e in entries:
        if "/data/" not in str(e.name):
            e.method = 8


def padded(entries: list[Entry]) -> None:
    """torch aligns data with an extra field in the local header alone."""
    for e in entries:
        e.local = {"extra": pack("<2H", 0x4246, 60) + b"Z" * 60}


def renamed(root: str, *gone: str) -> Callable[[list[Entry]], None]:
    def edit(entries: list[Entry]) -> None:
        entries[:] = [e for e in entries if str(e.name) not in gone]
        for e in entries:
            e.name = str(e.name).replace("m/", root, 1)

    return edit


NEW_RECORDS = [
    Entry("m/.format_version", b"1"),
    Entry("m/.storage_alignment", b"64"),
    Entry("m/.data/serialization_id", b"0636457737946401051300000000000000000000"),
]


def located(place: str) -> Edit:
    def edit(made: dict[str, Any], _: dict[str, bytes]) -> None:
        for t in made.values():
            t.storage.location = place

    return edit


def shared(made: dict[str, Any], storages: dict[str, bytes]) -> None:
    """All tensors are views of one storage."""
    whole = FakeStorage("all", len(data()) // 2, torch.BFloat16Storage)
    at = 0
    for t in made.values():
        t.storage, t.offset, at = whole, at, at + t.storage.numel
    storages.clear()
    storages["all"] = data()


def oversized(made: dict[str, Any], storages: dict[str, bytes]) -> None:
    """A tensor in the middle of a storage ten times as long."""
    t = made[UP]
    n = t.storage.numel
    storages[t.storage.key] = bytes(2 * n * 3) + storages[t.storage.key] + bytes(2 * n * 6)
    made[UP] = replace(t, storage=replace(t.storage, numel=10 * n), offset=3 * n)


def longer_record(made: dict[str, Any], storages: dict[str, bytes]) -> None:
    """A record with more bytes than the storage says."""
    storages[made[UP].storage.key] += b"\xee" * 100


def untyped(made: dict[str, Any], storages: dict[str, bytes]) -> None:
    for name, t in made.items():
        where = FakeStorage(t.storage.key, 2 * t.storage.numel, torch.UntypedStorage)
        made[name] = FakeTensor(where, 0, t.shape, t.strides, dtype=torch.bfloat16)


def strided() -> Tensors:
    out = dict(MODEL.truth)
    for name, t in out.items():
        if t.dim() == 2:
            out[name] = t.t().contiguous().t()
    return out


def sliced() -> Tensors:
    """Rows and columns of larger matrices; torch keeps the whole of each."""
    out = dict(MODEL.truth)
    for name, t in out.items():
        if t.dim() == 2:
            big = torch.zeros(len(t) + 3, t.shape[1] + 5, dtype=t.dtype)
            big[2:-1, 1:-4] = t
            out[name] = big[2:-1, 1:-4]
    return out


def every_other() -> Tensors:
    out = dict(MODEL.truth)
    big = torch.zeros(MODEL.dim * 2, dtype=torch.bfloat16)
    big[::2] = out[NORM]
    return out | {NORM: big[::2]}


def as_module() -> Any:
    """What torch.nn.Module.state_dict gives: an OrderedDict with an attribute, of Parameters."""
    out = OrderedDict((n, torch.nn.Parameter(t)) for n, t in MODEL.truth.items())
    out._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return out


def rewritten(folder: Path) -> None:
    """The archive as Python's zipfile writes it."""
    put(folder, bin_folder(archive()))
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as old:
        contents = {i.filename: old.read(i) for i in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in contents.items():
            new.writestr(name, content)


ARCHIVES: dict[str, Make] = {
    "no checksums": zipped(without_crcs),
    "zip64 that need not be": zipped(in_zip64, zip64={}, end={"n": 0xFFFF, "here": 0xFFFF}),
    "sizes behind the data": zipped(described),
    "deflated small records": zipped(deflated),
    "aligned records": zipped(padded),
    "a comment": zipped(comment=b"hello"),
    "an archive written by Python": rewritten,
    "records of new torch": zipped(lambda e: e.extend(NEW_RECORDS)),
    "records of old torch": zipped(renamed("archive/", "m/byteorder")),
    "a root of an odd name": zipped(renamed("a b \u00e9.\u2028/")),
    "storages of cuda:3": state(located("cuda:3")),
    "storages of mps": state(located("mps:0")),
    "storages of nowhere": state(located("")),
    "one storage for all": state(shared),
    "a storage too large": state(oversized),
    "a record too large": state(longer_record),
    "untyped storages": state(untyped),
    "pickle protocol 3": pickles(lambda s: pickled(s, 3)),
    "pickle protocol 4": pickles(lambda s: pickled(s, 4)),
    "pickle protocol 5": pickles(lambda s: pickled(s, 5)),
    "nested under model": pickles(lambda s: pickled({"model": s, "step": 5, "args": {"a": [1.5]}})),
    "nested under state_dict": pickles(lambda s: pickled({"epoch": 1, "state_dict": s})),
    "saved by torch": torch_saved(lambda: MODEL.truth),
    "a module's state dict": torch_saved(as_module),
    "transposed tensors": torch_saved(strided),
    "slices of larger tensors": torch_saved(sliced),
    "every other element": torch_saved(every_other),
}
