from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forge import (
    Entry,
    FakeStorage,
    FakeTensor,
    Refused,
    fill,
    pickled,
    torch_bytes,
    zip_bytes,
)

from llamatools.containers.base import Container, FileLayout, InputFile, StoredTensor
from llamatools.containers.detect import open_container
from llamatools.containers.torchzip_read import read_torch
from llamatools.containers.torchzip_write import torch_layout
from llamatools.containers.zipwrite import ZipRecord, zip_directory
from llamatools.dtypes import BF16, BY_NAME, F16, F32
from llamatools.errors import BadInput, NotRepresentable, Unsupported, UsageError

ALL = [(d.name, d, (3, 5)) for d in BY_NAME.values()] + [
    ("empty", F32, (2, 0, 3)),
    ("scalar", BF16, ()),
    ('odd "näme"\n', F16, (1,)),
]


def payloads() -> list[bytes]:
    """Bytes 0 and 1 in turn: legal for every dtype, bool included."""
    sizes = [s.stop - s.start for s in torch_layout(ALL, "m").slots]
    return [bytes(i % 2 for i in range(n)) for n in sizes]


def stored_bytes(t: StoredTensor) -> bytes:
    """A tensor's elements in row-major order, gathered one by one."""
    offsets = [0]
    for n, s in zip(t.shape, t.strides, strict=True):
        offsets = [o + i * s for o in offsets for i in range(n)]
    size = t.dtype.size
    return b"".join(t.file.read(t.offset + o * size, size) for o in offsets)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


# -- reading what torch writes


def sample(dtype: str) -> torch.Tensor:
    raw = torch.arange(48, dtype=torch.uint8) % 2
    return raw.view(getattr(torch, dtype)).clone()


def odd_tensors() -> dict[str, torch.Tensor]:
    """Tensors of every dtype, and every way of using a storage that a checkpoint may hold."""
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    tensors = {d.name: sample(d.torch) for d in BY_NAME.values()}
    return tensors | {
        "transposed": base.t(),
        "rows": base[1:4],
        "columns": base[:, 3:6],
        "every other": base[::2, ::3],
        "element": base[2, 3],
        "shared": base,
        "end": base[5:],
        "empty": torch.zeros(0, 3),
        "bf16 view": torch.arange(10).to(torch.bfloat16)[2:],
        "fp8 view": torch.arange(10).to(torch.float8_e4m3fn)[3:],
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "frozen": torch.nn.Parameter(torch.ones(3), requires_grad=False),
        "broadcast once": torch.ones(3).expand(1, 3),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_reads_what_torch_writes(protocol: int, kind: type[Any], tmp_path: Path) -> None:
    state = kind(odd_tensors())
    if kind is OrderedDict:
        state._metadata = {"": {"version": 1}}
    path = tmp_path / "checkpoint.bin"
    torch.save(state, path, pickle_protocol=protocol)
    found = open_container(path)
    assert found.kind == "torch"
    assert found.metadata == {}
    assert set(found.tensors) == set(state)
    offsets = [t.offset for t in found.tensors.values()]
    assert offsets == sorted(offsets), "file order"
    for name, tensor in state.items():
        t = found.tensors[name]
        assert getattr(torch, t.dtype.torch) == tensor.dtype
        assert t.shape == tuple(tensor.shape)
        assert t.strides == tensor.stride()
        assert t.contiguous == tensor.is_contiguous()
        assert stored_bytes(t) == tensor_bytes(tensor), name


def test_records_tell_the_crc_of_the_whole_storage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    torch.save({"a": torch.arange(100.0)[10:20]}, path)
    record = open_container(path).tensors["a"].record
    assert record is not None
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x/data/0")
    assert (record.size, record.crc) == (400, info.CRC)
    assert record.start % 64 == 0


def test_files_without_crcs(tmp_path: Path) -> None:
    path = tmp_path / "x"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    record = open_container(path).tensors["a"].record
    assert record is not None
    assert record.crc is None


@pytest.mark.parametrize("key", ["model", "state_dict", "module"])
def test_nested_state_dicts(key: str, tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
    state = {"epoch": 3, key: torch.nn.Linear(2, 3).state_dict(), "optimizer": optimizer}
    torch.save(state, tmp_path / "x")
    found = open_container(tmp_path / "x")
    assert list(found.tensors) == ["weight", "bias"]
    assert found.metadata == {"key": key, "beside": "epoch, optimizer"}


def test_files_of_older_torch(open_bytes: Callable[[bytes], Container]) -> None:
    """Without byteorder and alignment, root folder "archive", a location of cuda:3."""
    state = {"w": FakeTensor(FakeStorage("94", 4, torch.HalfStorage, "cuda:3"))}
    data = zip_bytes(
        [
            Entry("archive/data.pkl", pickled(state)),
            Entry("archive/data/94", b"12345678"),
            Entry("archive/version", b"2\n"),
        ]
    )
    assert stored_bytes(open_bytes(data).tensors["w"]) == b"12345678"


def test_a_deflated_pickle_is_read(open_bytes: Callable[[bytes], Container]) -> None:
    """As in an archive that was unpacked and packed again, data stored."""
    data = zip_bytes(
        [
            Entry("m/data.pkl", pickled({"w": FakeTensor()}), method=8),
            Entry("m/byteorder", b"little", method=8),
            Entry("m/data/0", b"x" * 16),
        ]
    )
    assert stored_bytes(open_bytes(data).tensors["w"]) == b"x" * 16


def test_storages_larger_than_needed(open_bytes: Callable[[bytes], Container]) -> None:
    """A record may be longer than its storage, and a storage longer than its tensors."""
    state = {"w": FakeTensor(FakeStorage(numel=8), 2, (3,), (2,))}
    t = open_bytes(torch_bytes(state, {"0": bytes(range(64))})).tensors["w"]
    assert stored_bytes(t) == bytes([*range(8, 12), *range(16, 20), *range(24, 28)])


# -- what is refused

SIZES = FakeStorage(numel=2**62)
BAD: dict[str, tuple[bytes, str]] = {
    "not a checkpoint": (zip_bytes([Entry("m/x")]), "a zip archive without m/data.pkl"),
    "byte order nonsense": (
        zip_bytes([Entry("m/data.pkl", pickled({})), Entry("m/byteorder", b"middle")]),
        "byte order b'middle', expected little or big",
    ),
    "byte order long": (
        zip_bytes([Entry("m/data.pkl", pickled({})), Entry("m/byteorder", bytes(17))]),
        "entry byteorder has 17 bytes",
    ),
    "pickle damaged": (torch_bytes({"w": FakeTensor()}).replace(b"cpu", b"cpX"), "CRC-32 is"),
    "not a dict": (torch_bytes([FakeTensor()]), "(data.pkl): holds a list of 1"),
    "bad global": (
        torch_bytes(b"\x80\x02cos\nsystem\n."),
        "the pickle refers to os.system",
    ),
    "record missing": (
        torch_bytes({"w": FakeTensor()}, {}),
        "its record data/0 is missing",
    ),
    "record elsewhere": (
        torch_bytes({"w": FakeTensor(FakeStorage("../version"))}),
        "tensor w: its record data/../version is missing",
    ),
    "record a folder": (
        zip_bytes(
            [Entry("m/data.pkl", pickled({"w": FakeTensor(FakeStorage(""))})), Entry("m/data/")]
        ),
        "its storage has 16 bytes, its record data/ only 0",
    ),
    "storage over its record": (
        torch_bytes({"w": FakeTensor(FakeStorage(numel=5))}),
        "its storage has 20 bytes, its record data/0 only 16",
    ),
    "storage of all memory": (
        torch_bytes({"w": FakeTensor(SIZES, 0, (2**62,))}),
        "its storage has 18,446,744,073,709,551,616 bytes",
    ),
    "two sizes": (
        torch_bytes({"v": FakeTensor(), "w": FakeTensor(FakeStorage(numel=3), 0, (3,))}),
        "tensor w: storage 0 has another type or size elsewhere",
    ),
    "two types": (
        torch_bytes({"v": FakeTensor(), "w": FakeTensor(FakeStorage(cls=torch.IntStorage))}),
        "tensor w: storage 0 has another type or size elsewhere",
    ),
    "shape over its storage": (
        torch_bytes({"w": FakeTensor(shape=(5,))}),
        "shape (5,), strides (1,), offset 0 need 5 elements; its storage has 4",
    ),
    "offset over its storage": (
        torch_bytes({"w": FakeTensor(offset=1)}),
        "need 5 elements",
    ),
    "offset of an empty tensor": (
        torch_bytes({"w": FakeTensor(offset=5, shape=(0,))}),
        "offset 5 need 5 elements",
    ),
    "stride over its storage": (
        torch_bytes({"w": FakeTensor(shape=(2,), strides=(4,))}),
        "strides (4,), offset 0 need 5 elements",
    ),
    "huge stride": (
        torch_bytes({"w": FakeTensor(strides=(2**62,))}),
        "its storage has 4",
    ),
    "element size": (
        torch_bytes(
            {"w": FakeTensor(FakeStorage(numel=16, cls=torch.UntypedStorage), dtype=torch.float64)}
        ),
        "need 4 elements; its storage has 2",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refuses(data: bytes, words: str, refused: Refused) -> None:
    refused(data, words)


UNSUPPORTED = {
    "big endian": (
        zip_bytes([Entry("m/data.pkl", pickled({})), Entry("m/byteorder", b"big")]),
        "written on a big-endian machine",
    ),
    "TorchScript": (
        zip_bytes([Entry("m/data.pkl", b""), Entry("m/constants.pkl", b"")]),
        "a TorchScript program",
    ),
    "deflated weights": (
        zip_bytes(
            [
                Entry("m/data.pkl", pickled({"w": FakeTensor()})),
                Entry("m/data/0", bytes(16), method=8),
            ]
        ),
        "tensor w: its record data/0 is compressed",
    ),
    "expanded": (
        torch_bytes({"w": FakeTensor(shape=(2**40, 4), strides=(0, 1))}),
        "shape (1099511627776, 4) repeats the 4 elements of its storage",
    ),
}


@pytest.mark.parametrize(("data", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported(data: bytes, words: str, refused: Refused) -> None:
    assert "save it again" in str(refused(data, words, error=Unsupported).hint)


def test_every_bad_tensor_is_named(refused: Refused) -> None:
    state = {
        "a": FakeTensor(),
        "b": FakeTensor(offset=9),
        "c": FakeTensor(FakeStorage("1")),
        "::warning::\x07": FakeTensor(shape=(2**40,), strides=(0,)),
        "d": FakeTensor(shape=(7,)),
    }
    error = refused(torch_bytes(state), "tensor b: ", "tensor c: ", "tensor d: ")
    assert len(error.problems) == 3, "what is merely unsupported waits"
    del state["b"], state["c"], state["d"]
    refused(torch_bytes(state), "tensor :\\:warning:\\:\\x07: ", error=Unsupported)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (torch.nn.Linear(1, 1), "refers to torch.nn.modules.linear.Linear"),
        ({"t": torch.zeros(3, device="meta")}, "a tensor without data (meta device)"),
        ({"t": torch.eye(3).to_sparse()}, "a sparse tensor"),
        ({"t": torch.zeros(2, dtype=torch.complex64).conj()}, "negative or conjugate bit"),
        ({"t": torch.zeros(2, dtype=torch.complex128)}, "complex numbers of double precision"),
        ({"t": torch.zeros(1).expand(9)}, "tensor t: shape (9,) repeats the 1 elements"),
        ({"t": torch.zeros(1), "step": 7}, "step is 7, expected a tensor"),
        ({"t": torch.zeros(1).untyped_storage()}, "t is a storage, expected a tensor"),
        (torch.zeros(1), "holds a tensor, expected a dict of tensors"),
    ],
)
def test_refuses_what_torch_may_write(obj: object, words: str, tmp_path: Path) -> None:
    torch.save(obj, tmp_path / "x")
    with pytest.raises(BadInput) as caught:
        open_container(tmp_path / "x")
    assert words in str(caught.value)


# -- writing


@pytest.fixture
def written(tmp_path: Path) -> Path:
    layout: FileLayout = torch_layout(ALL, "consolidated.00")
    assert layout.needs_crc
    return fill(layout, payloads(), tmp_path / "x.pth")


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_is_written(mmap: bool, written: Path) -> None:
    state = torch.load(written, weights_only=True, mmap=mmap)
    assert list(state) == [name for name, _, _ in ALL]
    for (name, dtype, shape), payload in zip(ALL, payloads(), strict=True):
        tensor = state[name]
        assert tensor.dtype == getattr(torch, dtype.torch)
        assert tuple(tensor.shape) == shape
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor_bytes(tensor) == payload
        assert tensor.untyped_storage().nbytes() == len(payload)


def test_zip_tools_read_what_is_written(written: Path) -> None:
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("consolidated.00/byteorder") == b"little"
        assert archive.read("consolidated.00/version") == b"3\n"
    assert names[:3] == [f"consolidated.00/{n}" for n in ("data.pkl", "byteorder", "data/0")]
    if unzip := shutil.which("unzip"):
        subprocess.run([unzip, "-tq", written], check=True, capture_output=True)


def test_reads_what_is_written(written: Path) -> None:
    found = open_container(written)
    assert [(t.name, t.dtype, t.shape) for t in found.tensors.values()] == ALL
    for t, payload in zip(found.tensors.values(), payloads(), strict=True):
        assert t.contiguous
        assert t.offset % 64 == 0
        assert t.record is not None
        assert (t.record.start, t.record.size) == (t.offset, len(payload))
        assert found.file.read(t.offset, t.nbytes) == payload


def test_written_bytes_depend_on_nothing_else(written: Path, tmp_path: Path) -> None:
    again = fill(torch_layout(ALL, "consolidated.00"), payloads(), tmp_path / "y.bin")
    assert again.read_bytes() == written.read_bytes()


def test_nothing_to_write(tmp_path: Path) -> None:
    path = fill(torch_layout([], "m"), [], tmp_path / "x")
    assert torch.load(path, weights_only=True) == {}
    assert open_container(path).tensors == {}


def test_what_cannot_be_written() -> None:
    for name in ("", ".", "..", "a/b", "a\\b", "a\0"):
        with pytest.raises(UsageError, match="cannot be the name of a folder"):
            torch_layout([], name)
    with pytest.raises(NotRepresentable, match="two tensors named a"):
        torch_layout([("a", F32, ()), ("b", F32, ()), ("a", F16, ())], "m")


# -- beyond 4 GiB


def sparse(layout: FileLayout, path: Path) -> Path:
    """The file with holes for tensors: zeros that take no space."""
    with path.open("wb") as out:
        at = 0
        for i in range(len(layout.slots) + 1):
            literal = layout.literal(i, [0] * min(i, len(layout.slots)))
            out.seek(at)
            out.write(literal)
            assert i == len(layout.slots) or out.tell() == layout.slots[i].start
            at = layout.slots[i].stop if i < len(layout.slots) else out.tell()
        assert at == layout.size
    if path.stat().st_blocks * 512 > 100_000_000:
        pytest.skip("the file system does not leave holes")
    return path


U8 = BY_NAME["U8"]
GIANTS = {
    "one": [("a", U8, (2**32 - 1,)), ("b", BF16, (5,))],
    "just below": [("a", U8, (2**32 - 2,)), ("b", BF16, (5,))],
    "several": [("a", BF16, (3, 2**30)), ("b", F32, (2,)), ("c", F32, (2**31,)), ("d", F32, ())],
    "many small": [(str(i), F32, (2**28,)) for i in range(6)],
}


@pytest.mark.parametrize("tensors", GIANTS.values(), ids=GIANTS)
def test_zip64(tensors: list[Any], tmp_path: Path) -> None:
    layout = torch_layout(tensors, "m")
    path = sparse(layout, tmp_path / "x")
    with zipfile.ZipFile(path) as archive:
        infos = [i for i in archive.infolist() if "/data/" in i.filename]
    assert [i.file_size for i in infos] == [s.stop - s.start for s in layout.slots]
    found = read_torch(InputFile(path))
    assert [(t.name, t.dtype, t.shape) for t in found.tensors.values()] == tensors
    assert [t.offset for t in found.tensors.values()] == [s.start for s in layout.slots]
    for name, _, shape in tensors:
        tensor = torch.load(path, weights_only=True, mmap=True)[name]
        assert tuple(tensor.shape) == shape
        assert tensor.storage_offset() == 0
        assert not tensor.reshape(-1)[-1:].view(torch.uint8).any()
    # The last tensor seen by torch starts where the plan says.
    with path.open("r+b") as out:
        out.seek(layout.slots[-1].start)
        out.write(b"\1")
    last = torch.load(path, weights_only=True, mmap=True)[tensors[-1][0]]
    assert last.reshape(-1)[:1].view(torch.uint8)[0] == 1


@pytest.mark.parametrize("n", [65_534, 65_535, 70_000])
def test_zip64_by_the_number_of_entries(n: int) -> None:
    out = io.BytesIO()
    records = []
    for i in range(n):
        record = ZipRecord(f"m/{i}", out.tell(), 0, crc=0)
        out.write(record.local)
        records.append(record)
    out.write(zip_directory(records, [0] * n, out.tell()))
    with zipfile.ZipFile(out) as archive:
        assert len(archive.namelist()) == n
