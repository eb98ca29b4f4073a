from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from struct import pack

import pytest
from support.forge import Entry, zip_bytes

from llamatools.containers.base import InputFile
from llamatools.containers.zipheaders import STORED
from llamatools.containers.zipindex import ZipIndex, read_zip_index
from llamatools.errors import BadInput, Unsupported

A = Entry("m/a", b"aaaa")
B = Entry("m/b", b"bbbbbb")
BIG = 0xFFFFFFFF
FULL = {"n": 0xFFFF, "here": 0xFFFF}


def index_of(data: bytes, tmp_path: Path) -> ZipIndex:
    path = tmp_path / "file"
    path.write_bytes(data)
    return read_zip_index(InputFile(path))


def zip64(*values: int) -> bytes:
    return pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def check_a_and_b(data: bytes, tmp_path: Path) -> None:
    index = index_of(data, tmp_path)
    assert index.root == "m"
    assert list(index.entries) == ["a", "b"]
    assert index.has_crcs
    for e, content in ((A, b"aaaa"), (B, b"bbbbbb")):
        assert index.read_small(str(e.name)[2:], 10) == content
        entry = index.entries[str(e.name)[2:]]
        if entry.method == STORED:
            assert data[entry.start : entry.start + entry.size] == content


LATE = {"crc": 0, "compressed": 0, "size": 0, "flags": 0x0808}
SOUND = {
    "plain": zip_bytes([A, B]),
    "comment": zip_bytes([A, B], comment=b"hello" * 1000),
    "zip64 end": zip_bytes([A, B], zip64={}),
    "zip64 end, end saturated": zip_bytes(
        [A, B], zip64={}, end={"n": 0xFFFF, "here": 0xFFFF, "size": BIG, "at": BIG}
    ),
    "descriptors": zip_bytes(
        [Entry("m/a", b"aaaa", flags=0x0808, descriptor=bytes(16), local=LATE), B]
    ),
    "descriptors, sizes saturated": zip_bytes(
        [Entry("m/a", b"aaaa", local=LATE | {"size": BIG, "compressed": BIG}), B]
    ),
    "descriptors, sizes given": zip_bytes([Entry("m/a", b"aaaa", local={"flags": 0x0808}), B]),
    "zip64 local": zip_bytes(
        [Entry("m/a", b"aaaa", local={"size": BIG, "compressed": BIG, "extra": zip64(4, 4)}), B]
    ),
    "zip64 central": zip_bytes(
        [A, Entry("m/b", b"bbbbbb", central={"size": BIG, "header": BIG, "extra": zip64(6, 37)})]
    ),
    "zip64 among other extras": zip_bytes(
        [
            A,
            Entry(
                "m/b",
                b"bbbbbb",
                central={"header": BIG, "extra": pack("<2HL", 9, 4, 0) + zip64(37) + b"\0"},
            ),
        ]
    ),
    "deflated": zip_bytes([Entry("m/a", b"aaaa", method=8), Entry("m/b", b"bbbbbb", method=8)]),
}


@pytest.mark.parametrize("data", SOUND.values(), ids=SOUND)
def test_reads(data: bytes, tmp_path: Path) -> None:
    check_a_and_b(data, tmp_path)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError


@pytest.mark.parametrize("stream", [io.BytesIO, Unseekable])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("force_zip64", [False, True])
def test_reads_what_python_writes(
    stream: type[io.BytesIO], method: int, force_zip64: bool, tmp_path: Path
) -> None:
    out = stream()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.comment = b"a comment"
        for name, content in (("m/a", b"aaaa"), ("m/b", b"bbbbbb")):
            with archive.open(name, "w", force_zip64=force_zip64) as entry:
                entry.write(content)
    path = tmp_path / "file"
    path.write_bytes(out.getvalue())
    index = read_zip_index(InputFile(path))
    assert index.read_small("a", 10) == b"aaaa"
    assert index.read_small("b", 10) == b"bbbbbb"


def test_folders_are_entries_like_others(tmp_path: Path) -> None:
    data = zip_bytes([Entry("m/"), Entry("m/data/"), Entry("m/data/0", b"x")])
    assert list(index_of(data, tmp_path).entries) == ["", "data/", "data/0"]


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    data = zip_bytes([Entry("m/é".encode()), Entry(b"m/\xff")])
    assert list(index_of(data, tmp_path).entries) == ["é", "\xa0"]


def test_without_crcs(tmp_path: Path) -> None:
    none = {"crc": 0}
    entry = Entry("m/a", b"aaaa", local=none, central=none)
    index = index_of(zip_bytes([entry]), tmp_path)
    assert not index.has_crcs
    assert index.read_small("a", 4) == b"aaaa"
    index = index_of(zip_bytes([entry, B]), tmp_path)
    assert index.has_crcs
    with pytest.raises(BadInput, match="the archive says 00000000"):
        index.read_small("a", 4)


def lie(**central: object) -> bytes:
    """The central entry of m/b is changed, its local header is not."""
    return zip_bytes([A, Entry("m/b", b"bbbbbb", central=central)])


def lie_here(**local: object) -> bytes:
    return zip_bytes([A, Entry("m/b", b"bbbbbb", local=local)])


BAD = {
    "duplicate": (zip_bytes([A, A]), "zip entry m/a is there more than once"),
    "duplicate under two flags": (
        zip_bytes([Entry("m/é".encode()), Entry("m/é".encode(), flags=0)]),
        "m/é is there more than once",
    ),
    "two roots": (zip_bytes([A, Entry("n/a")]), "more than one folder: m, n"),
    "no root": (zip_bytes([A, Entry("b")]), "zip entry b lies outside a folder"),
    "traversal": (zip_bytes([A, Entry("m/../../etc/passwd")]), "not a plain relative path"),
    "dot": (zip_bytes([A, Entry("m/./b")]), "not a plain relative path"),
    "absolute": (zip_bytes([A, Entry("/m/b")]), "not a plain relative path"),
    "double slash": (zip_bytes([A, Entry("m//b")]), "not a plain relative path"),
    "backslash": (zip_bytes([A, Entry("m/..\\b")]), "not a plain relative path"),
    "NUL": (zip_bytes([A, Entry("m/a\0")]), "not a plain relative path"),
    "empty name": (zip_bytes([A, Entry("")]), "not a plain relative path"),
    "empty": (zip_bytes([]), "an empty zip archive"),
    "control characters": (zip_bytes([A, Entry("m/\x1b[2J\n"), Entry("x\n")]), "zip entry x\\n"),
    "local name": (
        lie_here(name=b"m/c"),
        "m/b: another local header, or none, at byte 37",
    ),
    "local name longer": (lie_here(name=b"m/bb"), "another local header"),
    "local signature": (lie_here(signature=b"PK\3\5"), "another local header, or none"),
    "method": (lie(method=8), "method is 0 in its local header, 8 in the directory"),
    "crc": (lie(crc=1), "CRC-32 is"),
    "sizes": (lie(size=5, compressed=5), "compressed size is 6 in its local header, 5 in the dir"),
    "stored with two sizes": (lie(size=7), "is stored, and says it has 7 and 6 bytes"),
    "descriptor and another size": (
        lie_here(flags=0x808, crc=0, size=5, compressed=0),
        "size is 5 in its local header, 6 in",
    ),
    "zero sizes without descriptor": (lie_here(size=0, compressed=0), "compressed size is 0 in"),
    "header offset elsewhere": (lie(header=1), "another local header"),
    "header offset past the end": (lie(header=10**9), "said to lie at byte 1000000000"),
    "header offset in the directory": (lie(header=90), "said to lie at byte 90"),
    "same header twice": (
        zip_bytes([A, B, Entry("m/c", central={"header": 0, "name": b"m/a"})]),
        "m/a is there more than once",
    ),
    "overlap": (
        zip_bytes(
            [
                Entry(
                    "m/a",
                    b"PK\3\4" * 20,
                    local={"size": 120, "compressed": 120},
                    central={"size": 120, "compressed": 120},
                ),
                B,
            ]
        ),
        "zip entry m/a overlaps zip entry m/b",
    ),
    "nested entry": (
        zip_bytes(
            [
                Entry("m/a", zip_bytes([Entry("m/b", b"x")])),
                Entry("m/b", b"x", central={"header": 33}),
            ]
        ),
        "zip entry m/a overlaps zip entry m/b",
    ),
    "data over the directory": (
        zip_bytes(
            [
                Entry(
                    "m/a",
                    b"aaaa",
                    local={"size": 50, "compressed": 50},
                    central={"size": 50, "compressed": 50},
                )
            ]
        ),
        "zip entry m/a overlaps the zip directory",
    ),
    "local extra over the directory": (
        zip_bytes([A, Entry("m/b", b"", local={"extra": bytes(9)})]).replace(
            b"\x03\0\x09\0m/b", b"\x03\0\xff\0m/b"
        ),
        "its local header runs into the zip directory",
    ),
    "prefix": (b"#!/bin/sh\n" + zip_bytes([A]), "the zip directory should end at byte"),
    "prefix counted": (zip_bytes([A], prefix=b"junk"), "4 bytes precede the zip archive"),
    "no end": (zip_bytes([A])[:-22], "no end record of a zip archive"),
    "cut": (zip_bytes([A])[:-1], "no end record of a zip archive"),
    "bytes behind": (zip_bytes([A]) + b"x", "end record does not end the file"),
    "comment length": (zip_bytes([A], end={"comment": 7}), "end record does not end the file"),
    "second end in the comment": (
        zip_bytes([A], comment=zip_bytes([B])[-22:] + b"x"),
        "end record does not end the file",
    ),
    "junk before the end": (zip_bytes([A], junk=b"junk"), "the zip directory should end at byte"),
    "directory offset": (zip_bytes([A], end={"at": 1}), "the zip directory should end at byte"),
    "directory size": (zip_bytes([A], end={"size": 3}), "the zip directory should end at byte"),
    "too few counted": (
        zip_bytes([A, B], end={"n": 1, "here": 1}),
        "49 bytes of the zip dir",
    ),
    "too many counted": (
        zip_bytes([A], end={"n": 2, "here": 2}),
        "2 entries, and entry 1",
    ),
    "central signature": (lie(signature=b"PK\1\3"), "and entry 1 is not one"),
    "central name past the end": (
        zip_bytes([A]).replace(
            b"\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0m/a", b"\x04\0" + bytes(16) + b"m/a"
        ),
        "entry 0 runs past the end of the zip directory",
    ),
    "zip64 disagrees": (zip_bytes([A], zip64={"n": 2, "here": 2}), "end records disagree: 1 and 2"),
    "zip64 size disagrees": (zip_bytes([A], zip64={"size": 10}), "end records disagree: 49 and 10"),
    "zip64 end elsewhere": (zip_bytes([A], zip64={"end64": 0}), "zip64 end record is not"),
    "zip64 end past the file": (zip_bytes([A], zip64={"end64": 2**63}), "zip64 end record is not"),
    "zip64 end of another size": (
        zip_bytes([A], zip64={"rest": 45}),
        "zip64 end record is not",
    ),
    "zip64 end claims a million entries": (
        zip_bytes(
            [A], zip64={"n": 10**6 + 1, "here": 10**6 + 1}, end={"n": 0xFFFF, "here": 0xFFFF}
        ),
        "1,000,001 entries",
    ),
    "zip64 end claims all memory": (
        zip_bytes([A], zip64={"size": 2**62, "at": 0}, end={"size": BIG, "at": BIG}),
        "the zip directory should end at byte",
    ),
    "zip64 field missing": (lie(size=BIG, compressed=BIG), "needs one zip64 field"),
    "zip64 field short": (
        lie(size=BIG, compressed=BIG, header=BIG, extra=zip64(6, 6)),
        "needs one zip64 field that holds its sizes and offset",
    ),
    "zip64 field twice": (lie(header=BIG, extra=zip64(37) + zip64(37)), "needs one zip64 field"),
    "zip64 offset lies": (
        lie(header=BIG, extra=zip64(2**63)),
        "at byte 9223372036854775808",
    ),
    "zip64 size lies": (
        lie(size=BIG, compressed=BIG, extra=zip64(2**63, 2**63)),
        "compressed size is 6 in its local header, 9223372036854775808",
    ),
    "zip64 size lies twice": (
        zip_bytes(
            [
                A,
                Entry(
                    "m/b",
                    b"bbbbbb",
                    central={"size": BIG, "compressed": BIG, "extra": zip64(2**63, 2**63)},
                    local={"size": BIG, "compressed": BIG, "extra": zip64(2**63, 2**63)},
                ),
            ]
        ),
        "zip entry m/b overlaps the zip directory",
    ),
    "local zip64 lies": (
        lie_here(size=BIG, compressed=BIG, extra=zip64(7, 7)),
        "compressed size is 7 in its local header, 6 in the directory",
    ),
    "extra field past its end": (
        lie(header=BIG, extra=pack("<2H", 1, 9)),
        "an extra field that runs past its end",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refuses(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        index_of(data, tmp_path)
    assert type(caught.value) is BadInput
    assert words in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zip_bytes([Entry("m/a", flags=1)]), "encrypted or patched (zip flags 0x0001)"),
        (zip_bytes([Entry("m/a", flags=0x20)]), "encrypted or patched"),
        (zip_bytes([Entry("m/a", flags=0x2000)]), "encrypted or patched"),
        (lie_here(flags=0x801), "m/b is encrypted or patched"),
        (zip_bytes([A], end={"disk": 1}), "split over several files"),
        (zip_bytes([A, B], end={"here": 1}), "split over several files"),
        (lie(disk=1), "m/b is said to be in another file"),
    ],
)
def test_unsupported(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        index_of(data, tmp_path)
    assert words in str(caught.value)


def test_read_small_is_bounded(tmp_path: Path) -> None:
    index = index_of(zip_bytes([A, Entry("m/d", bytes(10_000), method=8)]), tmp_path)
    with pytest.raises(BadInput, match=r"entry a has 4 bytes .* more than the 3 allowed"):
        index.read_small("a", 3)
    with pytest.raises(BadInput, match=r"entry d has 10,000 bytes .* the 9,999 allowed"):
        index.read_small("d", 9999)
    with pytest.raises(BadInput, match="entry c is missing"):
        index.read_small("c", 3)
    assert index.read_small("d", 10_000) == bytes(10_000)


def test_a_bomb_does_not_go_off(tmp_path: Path) -> None:
    """64 MB of zeros that claim to be 1000 bytes: never more than those are inflated."""
    small = {"size": 1000}
    bomb = zip_bytes([Entry("m/a", bytes(64_000_000), method=8, local=small, central=small)])
    index = index_of(bomb, tmp_path)
    tracemalloc.start()
    with pytest.raises(BadInput, match="does not inflate to the 1000 bytes"):
        index.read_small("a", 100_000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_damaged_data(tmp_path: Path) -> None:
    data = zip_bytes([Entry("m/a", b"aaaa"), Entry("m/d", bytes(1000), method=8)])
    index = index_of(data.replace(b"aaaa", b"aaab"), tmp_path)
    with pytest.raises(BadInput, match="entry a: CRC-32 is 86b5b686, the archive says ad98e545"):
        index.read_small("a", 10)
    start = index.entries["d"].start
    index = index_of(data[:start] + b"\xff" + data[start + 1 :], tmp_path)
    with pytest.raises(BadInput, match="damaged deflate data"):
        index.read_small("d", 1000)
    more = {"size": 1001}
    index = index_of(
        zip_bytes([Entry("m/d", bytes(1000), method=8, local=more, central=more)]), tmp_path
    )
    with pytest.raises(BadInput, match="does not inflate to the 1001 bytes"):
        index.read_small("d", 2000)
    odd = {"method": 12}
    index = index_of(zip_bytes([Entry("m/d", b"x", local=odd, central=odd)]), tmp_path)
    with pytest.raises(Unsupported, match="zip compression method 12"):
        index.read_small("d", 2000)
