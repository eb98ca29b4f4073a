"""A small sound checkpoint in every form, made by hand, so that each case can tell one lie."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from support.forge import (
    Entry,
    FakeStorage,
    FakeTensor,
    pickled,
    safetensors_bytes,
    zip_bytes,
)
from support.tiny import Tensors, Tiny, meta_rank
from support.tiny_files import hf_config, meta_params, write_meta

MODEL = Tiny(heads=4, kv_heads=2, head_dim=4, ffn=24, vocab=20, layers=2)
NORM = "model.layers.1.input_layernorm.weight"
UP = "model.layers.1.mlp.up_proj.weight"
SECRET = "the secret that no message may show"
CANARY = "canary"
"""The file that hostile code would make, in the current folder."""


@dataclass(frozen=True)
class Case:
    """A checkpoint that must be refused: how to make it in a new folder, and what must be said.

    `make` may return what to give on the command line instead of the folder.
    """

    make: Callable[[Path], Path | None]
    words: tuple[str, ...]
    """Each is in the message: the culprit's name, and what is wrong with it."""
    code: int = 3
    to: str = "hf"
    more: tuple[str, ...] = ()
    """Further options of `convert`."""


Cases = dict[str, Case]
Files = Mapping[str, bytes]


def put(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def raw(t: torch.Tensor) -> bytes:
    return bytes(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


# -- Hugging Face's files, in one safetensors file or one torch archive


def config(**changes: Any) -> bytes:
    """config.json; a change to `...` removes the key."""
    data = hf_config(MODEL) | changes
    return json.dumps({k: v for k, v in data.items() if v is not ...}).encode()


def header(**changes: Any) -> dict[str, Any]:
    """The header of model.safetensors; a change to `...` removes a tensor."""
    out: dict[str, Any] = {}
    at = 0
    for name, t in MODEL.truth.items():
        out[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    return {k: v for k, v in (out | changes).items() if v is not ...}


def data() -> bytes:
    """What lies behind the header."""
    return b"".join(map(raw, MODEL.truth.values()))


def hf(weights: bytes | None = None, **files: bytes) -> dict[str, bytes]:
    """A folder with model.safetensors; `files` go by names with _ for the dot."""
    named = {name.replace("_json", ".json"): content for name, content in files.items()}
    sound = {"config.json": config(), "model.safetensors": safetensors_bytes(header(), data())}
    return sound | ({} if weights is None else {"model.safetensors": weights}) | named


def forged(tensors: Tensors | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(state dict to be pickled, storages) of a torch archive that holds the model."""
    state: dict[str, Any] = {}
    storages: dict[str, bytes] = {}
    for i, (name, t) in enumerate((MODEL.truth if tensors is None else tensors).items()):
        where = FakeStorage(str(i), t.numel(), torch.BFloat16Storage)
        state[name] = FakeTensor(where, 0, tuple(t.shape), tuple(t.contiguous().stride()))
        storages[str(i)] = raw(t)
    return state, storages


def records(state: object, storages: Files) -> list[Entry]:
    """The entries of a torch archive. A pickle is taken as it is."""
    program = state if isinstance(state, bytes) else pickled(state)
    out = [Entry("m/data.pkl", program), Entry("m/byteorder", b"little")]
    out += [Entry(f"m/data/{key}", value) for key, value in storages.items()]
    return [*out, Entry("m/version", b"3\n")]


def archive(edit: Callable[[list[Entry]], object] = lambda entries: None, **options: Any) -> bytes:
    """The model as a torch archive, with its entries edited; `options` are those of zip_bytes."""
    entries = records(*forged())
    edit(entries)
    return zip_bytes(entries, **options)


def with_state(edit: Callable[[dict[str, Any], dict[str, bytes]], object]) -> bytes:
    """The model as a torch archive, with its tensors edited."""
    state, storages = forged()
    edit(state, storages)
    return zip_bytes(records(state, storages))


def with_opcodes(item: bytes, protocol: int = 2) -> bytes:
    """The model as a torch archive, with one more item in its dict: the key is "extra"."""
    state, storages = forged()
    program = pickled(state, protocol)
    assert program.endswith(b"u.")
    return zip_bytes(records(program[:-2] + b"X\5\0\0\0extra" + item + b"u.", storages))


def bin_folder(weights: bytes) -> dict[str, bytes]:
    return {"config.json": config(), "pytorch_model.bin": weights}


# -- Meta's files


@cache
def meta(files: int) -> Files:
    """The model in so many ranks, as torch itself writes them."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_meta(MODEL, Path(folder) / "x", files)
        return {p.name: p.read_bytes() for p in made.iterdir()}


def params(**changes: Any) -> bytes:
    data = meta_params(MODEL, MODEL.kv_heads) | changes
    return json.dumps({k: v for k, v in data.items() if v is not ...}).encode()


def rank_archive(rank: int, files: int, edit: Callable[[Tensors], object]) -> bytes:
    """One rank's file, its tensors edited."""
    tensors = meta_rank(MODEL, rank, files)
    edit(tensors)
    return zip_bytes(records(*forged(tensors)))


# -- what a run must leave as it was


_READ = 1 << 28


def state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: kind, links' targets, contents, times of change."""
    out: dict[str, tuple[object, ...]] = {}
    for p in sorted(folder.rglob("*")):
        info = p.lstat()
        kept: object = ""
        if p.is_symlink():
            kept = p.readlink()
        elif p.is_file() and info.st_size < _READ:  # the giants are holes
            kept = p.read_bytes()
        changed = info.st_mtime_ns if not p.is_dir() else 0
        out[str(p.relative_to(folder))] = (info.st_mode, info.st_size, changed, kept)
    return out


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Nothing below the folder is made, changed or removed, and no canary is there."""
    before = state_of(folder)
    yield
    after = state_of(folder)
    different = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    assert not different, f"made, changed or removed: {sorted(different)}"
    assert CANARY not in {Path(n).name for n in after}


def simple(
    files: Callable[[], Files], *words: str, code: int = 3, to: str = "hf", more: Any = ()
) -> Case:
    """A case that is only files with contents."""
    return Case(lambda folder: put(folder, files()), words, code, to, tuple(more))
