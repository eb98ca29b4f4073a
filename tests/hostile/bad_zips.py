"""Zip archives that say two things, hide something, or are cut; else sound torch files."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import Any

import torch
from kit import MODEL, UP, Case, Cases, archive, bin_folder, meta, raw, simple
from support.forge import Entry, zip_bytes

NAME = "pytorch_model.bin"
Edit = Callable[[list[Entry]], object]
PICKLE, BYTEORDER, FIRST = 0, 1, 2
"""Places of entries; the last is `version`."""


def of(edit: Edit, *words: str, **options: Any) -> Case:
    return simple(lambda: bin_folder(archive(edit, **options)), NAME, *words)


def damaged(edit: Callable[[bytes], bytes], *words: str) -> Case:
    return simple(lambda: bin_folder(edit(archive())), NAME, *words)


def central(i: int, **fields: Any) -> Edit:
    """Other fields in the directory than in the local header."""
    return lambda entries: setattr(entries[i], "central", fields)


def local(i: int, **fields: Any) -> Edit:
    return lambda entries: setattr(entries[i], "local", fields)


def both(i: int, **fields: Any) -> Edit:
    def edit(entries: list[Entry]) -> None:
        entries[i].central = entries[i].local = fields

    return edit


def named(i: int, name: str | bytes) -> Edit:
    return lambda entries: setattr(entries[i], "name", name)


def more(*added: Entry) -> Edit:
    return lambda entries: entries.extend(added)


def packed(i: int) -> Edit:
    return lambda entries: setattr(entries[i], "method", 8)


def without(i: int) -> Edit:
    return lambda entries: entries.pop(i)


def bomb(entries: list[Entry]) -> None:
    """A pickle of a gigabyte in a megabyte, which says that it has 100 bytes."""
    entries[PICKLE] = Entry("m/data.pkl", bytes(200_000_000), method=8)
    entries[PICKLE].central = entries[PICKLE].local = {"size": 100}


def big_bomb(entries: list[Entry]) -> None:
    """The same, and honest about it."""
    entries[PICKLE] = Entry("m/data.pkl", bytes(200_000_000), method=8)


def overlapping(entries: list[Entry]) -> None:
    """Two storages whose bytes are the same range of the file."""
    entries[FIRST + 1].central = {"header": entries_at(entries, FIRST)}


def entries_at(entries: list[Entry], i: int) -> int:
    """Where the i-th local header lies."""
    return sum(30 + len(e.name) + len(e.data) for e in entries[:i])


def quoted(entries: list[Entry]) -> None:
    """An entry inside another's data: the directory points into the first storage."""
    inner = zip_bytes([Entry("m/data.pkl", b"\x80\x02cos\nsystem\n.")])
    entries[FIRST].data = inner.ljust(len(entries[FIRST].data), b"\0")
    entries[PICKLE].central = {"header": entries_at(entries, FIRST) + 30 + len("m/data/0")}


def flipped(data: bytes) -> bytes:
    """One bit of one weight."""
    at = data.find(raw(MODEL.truth[UP]))
    out = bytearray(data)
    out[at + 5] ^= 1
    return bytes(out)


def zip64(i: int, *values: int, size: int = 0xFFFFFFFF) -> Edit:
    extra = pack("<2H", 1, 8 * len(values)) + pack(f"<{len(values)}Q", *values)
    return both(i, compressed=size, size=size, extra=extra)


CASES: Cases = {
    "a name twice": of(more(Entry("m/data.pkl", b"\x80\x02}.")), "m/data.pkl", "more than once"),
    "a storage twice": of(more(Entry("m/data/0", bytes(8))), "m/data/0", "more than once"),
    "two roots": of(named(FIRST, "n/data/0"), "more than one folder"),
    "no root": of(named(FIRST, "data"), "outside a folder"),
    "a name that climbs": of(named(FIRST, "m/../../canary"), "not a plain relative path"),
    "a root that climbs": of(named(FIRST, "../data/0"), "not a plain relative path"),
    "an absolute name": of(named(FIRST, "/etc/passwd"), "not a plain relative path"),
    "a Windows path": of(named(FIRST, "m\\..\\data"), "not a plain relative path"),
    "a NUL in a name": of(named(FIRST, "m/data/0\0x"), "not a plain relative path"),
    "an empty name": of(named(FIRST, ""), "not a plain relative path"),
    "a name of CI commands": of(
        named(FIRST, "m/\n::error::a/b\x1b[31m"), "its record data/0 is missing"
    ),
    "names of two encodings": of(
        lambda e: e.extend([Entry("m/é", b""), Entry("m/é".encode(), b"", flags=0)]), "m/é"
    ),
    "another name locally": of(local(PICKLE, name=b"m/evil.pkl"), "another local header"),
    "another size locally": of(local(FIRST, size=1, compressed=1), "m/data/0", "size"),
    "another CRC locally": of(local(FIRST, crc=7), "m/data/0", "CRC-32 is 7"),
    "another method locally": of(local(FIRST, method=8), "m/data/0", "method is 8"),
    "no local header": of(local(FIRST, signature=b"PK\0\0"), "another local header"),
    "a local header beyond the end": of(central(FIRST, header=1 << 31), "m/data/0", "at byte"),
    "overlapping ranges": of(overlapping, "m/data/1"),
    "an entry in another's data": of(quoted, "m/data.pkl"),
    "data beyond the end": of(both(-1, size=2**30, compressed=2**30), "overlaps the zip directory"),
    "a storage shorter than it says": of(both(FIRST, size=4, compressed=4), "only 4"),
    "sizes that differ in a stored entry": of(both(FIRST, size=8), "is stored"),
    "a deflated storage": of(packed(FIRST), "data/0 is compressed"),
    "a bomb": of(bomb, "does not inflate to the 100 bytes"),
    "a bomb that says so": of(big_bomb, "200,000,000 bytes", "more than the 16,000,000 allowed"),
    "damaged deflate data": of(both(PICKLE, method=8), "damaged deflate data"),
    "method 99": of(both(PICKLE, method=99), "compression method 99"),
    "an encrypted entry": of(both(FIRST, flags=1), "m/data/0", "encrypted"),
    "masked headers": of(both(FIRST, flags=0x2000), "m/data/0", "encrypted or patched"),
    "another disk": of(central(FIRST, disk=3), "m/data/0", "another file"),
    "several disks": of(lambda e: None, "several files", end={"disk": 1}),
    "an entry too few": of(lambda e: None, "belong to no entry", end={"n": 3, "here": 3}),
    "an entry too many": of(lambda e: None, "directory", end={"n": 999, "here": 999}),
    "a directory elsewhere": of(lambda e: None, "should end at byte", end={"at": 4}),
    "a directory of 4 GB": of(lambda e: None, "should end at byte", end={"size": 0xFFFFFFFE}),
    "a hundred million entries": of(
        lambda e: None, "zip", zip64={"n": 10**8, "here": 10**8}, end={"n": 0xFFFF, "here": 0xFFFF}
    ),
    "end records that disagree": of(lambda e: None, "end records disagree", zip64={"n": 3}),
    "a zip64 record elsewhere": of(lambda e: None, "zip64 end record", zip64={"end64": 0}),
    "a zip64 record of another size": of(lambda e: None, "zip64 end record", zip64={"rest": 7}),
    "a zip64 size of 2^63": of(zip64(FIRST, 2**63, 2**63), "m/data/0"),
    "a zip64 field that is absent": of(
        both(FIRST, size=0xFFFFFFFF, compressed=0xFFFFFFFF), "zip64 field"
    ),
    "a zip64 field that is cut": of(zip64(FIRST, 5), "zip64 field"),
    "an extra field past its end": of(
        both(FIRST, size=0xFFFFFFFF, compressed=0xFFFFFFFF, extra=pack("<2H", 1, 500)),
        "runs past its end",
    ),
    "bytes before the archive": of(lambda e: None, NAME, prefix=b"#!/bin/sh\n"),
    "bytes before the directory's end": of(lambda e: None, "should end at byte", junk=b"junk"),
    "a longer comment than there is": of(lambda e: None, "end record", end={"comment": 9}),
    "another archive in the comment": of(
        lambda e: None, NAME, comment=zip_bytes([Entry("m/data.pkl", b"N.")])
    ),
    "no pickle": of(without(PICKLE), "without m/data.pkl"),
    "another name for the pickle": of(named(PICKLE, "m/DATA.PKL"), "without m/data.pkl"),
    "a storage missing": of(without(FIRST), "data/0 is missing", "model.embed_tokens.weight"),
    "a big-endian machine": of(
        lambda e: setattr(e[BYTEORDER], "data", b"big"), "a big-endian machine"
    ),
    "a middle-endian machine": of(
        lambda e: setattr(e[BYTEORDER], "data", b"middle"), "byte order b'middle'"
    ),
    "a byte order of a megabyte": of(
        lambda e: setattr(e[BYTEORDER], "data", bytes(1_000_000)), "byteorder", "16 allowed"
    ),
    "a TorchScript program": of(more(Entry("m/constants.pkl", b"N.")), "a TorchScript program"),
    "a flipped bit in a weight": damaged(flipped, "CRC-32", "damaged"),
    "a flipped bit in the pickle": damaged(
        lambda d: d.replace(b"norm.weight", b"norm.weighs", 1), "data.pkl", "CRC-32"
    ),
    "half of the file": damaged(lambda d: d[: len(d) // 2], "truncated"),
    "all but the last byte": damaged(lambda d: d[:-1], "no end record"),
    "one byte more": damaged(lambda d: d + b"x", "end record"),
    "only its first bytes": damaged(lambda d: d[:4], "no end record"),
    "a hole of zeros in front": damaged(lambda d: bytes(100) + d[100:], "zeros where"),
    "the second rank cut": simple(
        lambda: {**meta(2), "consolidated.01.pth": meta(2)["consolidated.01.pth"][:-700]},
        "consolidated.01.pth",
        "truncated",
    ),
    "a plain zip archive": simple(
        lambda: bin_folder(zip_bytes([Entry("x/readme.txt", b"hello")])), NAME, "without x/data.pkl"
    ),
    "a tensor of torch in a zip archive": simple(
        lambda: bin_folder(zip_bytes([Entry("m/0.npy", raw(torch.ones(3)))])), NAME
    ),
}
