"""Sound files with bits flipped, cut, spliced and repeated: refused, or read within their bounds.

`pytest -m fuzz` mutates for LLAMATOOLS_FUZZ_SECONDS (120) per reader, and prints how many files it
tried. What is kept are mutants that took the readers somewhere new: to lines of llamatools that no
file before them reached. Without that it would stop at the first checksum.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from bad_folders import INDEX, sharded
from kit import archive, config, data, forged, header, params, records
from support.forge import Entry, pickled, safetensors_bytes, zip_bytes

import llamatools
from llamatools.containers.detect import open_container
from llamatools.containers.numbers import extent
from llamatools.containers.pickles import load_pickle
from llamatools.containers.statedict import find_state_dict
from llamatools.errors import LlamatoolsError
from llamatools.jsonio import SETTINGS, load_json_object
from llamatools.layouts.hf_config import read_config
from llamatools.layouts.meta_config import read_params
from llamatools.yamlio import load_yaml_object

pytestmark = pytest.mark.fuzz

SECONDS = float(os.environ.get("LLAMATOOLS_FUZZ_SECONDS", "120"))
SEED = os.environ.get("LLAMATOOLS_FUZZ_SEED", "1")
SLOWEST = 5.0
MEMORY = 300_000_000
"""Beyond what the process has when it starts."""

HOME = str(Path(llamatools.__file__).parent)


def few() -> tuple[dict[str, Any], dict[str, bytes]]:
    """Three tensors: what is mutated is rather structure than names."""
    state, storages = forged()
    return {n: state[n] for n in list(state)[:3]}, {k: storages[k] for k in ("0", "1", "2")}


def nested(protocol: int) -> bytes:
    text = b"x" if protocol > 2 else "x"  # bytes were a call of _codecs.encode
    around = {"step": 1, "args": [1.5, None, (True, text), "é", 2**70]}
    return pickled({"model": few()[0]} | around, protocol)


def read_file(folder: Path, raw: bytes) -> None:
    """Through the front door; whatever is accepted has to lie within the file."""
    path = folder / "file"
    path.write_bytes(raw)
    found = open_container(path)
    for t in found.tensors.values():
        assert t.offset >= 0
        assert t.offset + extent(t.shape, t.strides) * t.dtype.size <= len(raw)
    found.file.close()


def read_pickle(folder: Path, raw: bytes) -> None:
    """Without a checksum in front."""
    find_state_dict(load_pickle(raw, "pickle"), "pickle")


def read_archived_pickle(folder: Path, raw: bytes) -> None:
    """With a checksum that is right."""
    read_file(folder, zip_bytes(records(raw, few()[1])))


def read_settings(folder: Path, raw: bytes) -> None:
    found = load_json_object(raw, "config.json", SETTINGS)
    for read in (read_config, read_params):
        with suppress(LlamatoolsError):
            read(found)


def read_yaml(folder: Path, raw: bytes) -> None:
    load_yaml_object(raw, "config.yaml")


def deflated(entries: list[Entry]) -> None:
    for e in entries[:2]:
        e.method = 8


YAML = b"""\
model:
  _component_: torchtune.models.llama3.lora_llama3_8b
  lora_attn_modules: ['q_proj', 'v_proj', "output_proj"]
  apply_lora_to_mlp: True
  lora_rank: 8   # a comment
  lora_alpha: 1.6e+1
text: |
  some lines
  of text
anchor: &a name
alias: *a
"""


@dataclass(frozen=True)
class Reader:
    read: Callable[[Path, bytes], None]
    seeds: Callable[[], list[bytes]]


READERS = {
    "safetensors": Reader(
        read_file,
        lambda: [
            safetensors_bytes({"__metadata__": {"format": "pt"}} | header(), data()),
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"
            ),
        ],
    ),
    "zip": Reader(
        read_file, lambda: [archive(), archive(deflated), zip_bytes(records(*few()), zip64={})]
    ),
    "pickle": Reader(read_pickle, lambda: [pickled(few()[0], 2), nested(2), nested(4), nested(5)]),
    "pickle in an archive": Reader(read_archived_pickle, lambda: [pickled(few()[0], 2), nested(4)]),
    "JSON": Reader(read_settings, lambda: [config(), params(), sharded()[INDEX]]),
    "YAML": Reader(read_yaml, lambda: [YAML]),
}

WORDS = [
    b"\0", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7),
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\u", b"\\ud800", b"null", b"true", b"NaN", b"-1",
    b"1e999", b"9" * 25, b"0.0", b'"dtype"', b'"shape"', b'"data_offsets"', b"__metadata__",
    b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\1\0\x10\0", b"m/data.pkl",
    b"\x80\x02", b"(", b")", b"t", b"}", b"]", b"u", b"s", b"a", b"e", b"R", b"Q", b"b", b"\x93",
    b"\x94", b"q\0", b"h\0", b"\x8a\x10", b"\x85", b"\x86", b"\x87", b"cos\nsystem\n",
    b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"? ", b"- ", b"|\n ", b"%YAML 1.1\n",
    b"2001-01-01", b"1:2:3", b"0x_", b"ctorch\nSize\n",
]  # fmt: skip


def mutate(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to eight small changes, rarely one that repeats a run many times."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        i = rng.randrange(len(out) + 1)
        n = rng.choice((1, 1, 2, 4, 8, 30, 200))
        match rng.randrange(9):
            case 0:
                if i < len(out):
                    out[i] ^= 1 << rng.randrange(8)
            case 1:
                if i < len(out):
                    out[i] = rng.randrange(256)
            case 2:
                del out[i : i + n]
            case 3:
                out[i:i] = rng.choice(WORDS)
            case 4:
                word = rng.choice(WORDS)
                out[i : i + len(word)] = word
            case 5:
                j = rng.randrange(len(other) + 1)
                out[i : i + n] = other[j : j + n]
            case 6:
                out[i:i] = out[i : i + n] * rng.choice((1, 1, 2, 50, 2000))
            case 7:
                number = int.from_bytes(out[i : i + 4], "little")
                number += rng.choice((-1, 1, -16, 16, 1 << 31))
                out[i : i + 4] = (number & 0xFFFFFFFF).to_bytes(4, "little")
            case _:
                if rng.random() < 0.3:
                    del out[i:]
    return bytes(out[: 1 << 20]) or b"x"


@dataclass
class Coverage:
    """Which lines of llamatools were run, and whether any of them was new."""

    seen: set[tuple[CodeType, int]] = field(default_factory=set)
    new: int = 0

    def trace(self, frame: Any, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line" and (place := (frame.f_code, frame.f_lineno)) not in self.seen:
            self.seen.add(place)
            self.new += 1
        return self.trace

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.new = 0
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(before)


@contextmanager
def little_memory() -> Iterator[None]:
    """An allocation of more than MEMORY raises MemoryError, and is a failure."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(reader: Reader, folder: Path, raw: bytes, coverage: Coverage) -> bool:
    """Whether the file is accepted. Any error but ours, and any long time, is a failure."""
    start = time.process_time()
    try:
        with coverage.watch():
            reader.read(folder, raw)
    except LlamatoolsError as e:
        assert str(e).isprintable() or "\n" in str(e)
        assert all(p.isprintable() for p in e.problems)
        return False
    finally:
        took = time.process_time() - start
    assert took < SLOWEST
    return True


@pytest.mark.parametrize("name", READERS)
def test_mutants(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = READERS[name]
    rng = random.Random(f"{SEED} {name}")
    coverage = Coverage()
    kept = reader.seeds()
    for seed in kept:
        assert attempt(reader, tmp_path, seed, coverage), "the seeds are sound"
    tried = accepted = 0
    start = time.monotonic()
    with little_memory():
        while time.monotonic() - start < SECONDS:
            raw = mutate(rng.choice(kept), rng.choice(kept), rng)
            try:
                accepted += attempt(reader, tmp_path, raw, coverage)
            except BaseException:
                culprit = Path.cwd() / f"fuzz-{zlib.crc32(raw):08x}"
                culprit.write_bytes(raw)
                print(f"seed {SEED}, file {tried}: kept as {culprit}")
                raise
            tried += 1
            if coverage.new and len(raw) < 1 << 16:
                kept.append(raw)
    with capsys.disabled():
        print(
            f"\n{name}: {tried:,} files in {SECONDS:.0f} s, {accepted:,} accepted, "
            f"{len(kept)} kept, {len(coverage.seen):,} lines reached"
        )
    assert tried > 100
    assert 0 < accepted < tried
