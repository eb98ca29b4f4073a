"""Outputs of every command that leaves a document, and ways to damage a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from blake3 import blake3
from support.calls import call, tree
from support.tiny import Tiny
from support.tiny_files import write_hf
from support.vocabularies import ranks, sentencepiece_model

import llamatools

GOLDEN = Path(__file__).parents[2] / "golden"
BASE = GOLDEN / "llama3-gqa/mp2"
META_NAMES = ("consolidated.00.pth", "consolidated.01.pth", "params.json")

OUTPUTS: Mapping[str, tuple[object, ...]] = {
    "hf": ("convert", BASE, "OUT", "--to", "hf"),
    "hf in parts": ("convert", BASE, "OUT", "--to", "hf", "--max-shard-size", "60kB"),
    "bin": ("convert", BASE, "OUT", "--to", "hf", "--weights", "bin"),
    "meta": ("convert", BASE, "OUT", "--to", "meta"),
    "meta 1": ("convert", BASE, "OUT", "--to", "meta", "--shards", 1),
    "meta 4": ("convert", BASE, "OUT", "--to", "meta", "--shards", 4),
    "meta safetensors": ("convert", BASE, "OUT", "--to", "meta", "--weights", "safetensors"),
    "safetensors": ("convert", BASE, "OUT", "--to", "safetensors"),
    "cast": ("convert", BASE, "OUT", "--to", "hf", "--dtype", "fp16"),
    "tied": ("convert", GOLDEN / "llama32-tied/mp2", "OUT", "--to", "hf"),
    "tied meta": ("convert", GOLDEN / "llama32-tied/mp2", "OUT", "--to", "meta", "--shards", 2),
    "merged": ("merge-lora", BASE, GOLDEN / "llama3-gqa-lora", "OUT", "--to", "hf"),
    "delta": ("make-delta", BASE, "MERGED", "OUT"),
    "exact delta": ("make-delta", BASE, "MERGED", "OUT", "--kind", "xor"),
    "applied": ("apply-delta", BASE, "DELTA", "OUT"),
    "tokenized": ("convert", "SOURCE", "OUT", "--to", "hf", "--verify"),
    "swapped": ("tokenizer", "swap", "SOURCE", "RANKS", "OUT", "--to", "meta"),
}


def make(name: str, folder: Path) -> Path:
    """The output of that name, in a new folder in `folder`, made with what it needs."""
    out = folder / name.replace(" ", "-")
    if not out.exists():
        done = call(*(_word(w, out) for w in OUTPUTS[name]), "--quiet")
        assert done.code == 0, done.err
    return out


def _word(word: object, out: Path) -> object:
    """A word of a command, with what stands for it put in its place."""
    if word == "OUT":
        return out
    if word in ("MERGED", "DELTA"):
        return make({"MERGED": "merged", "DELTA": "exact delta"}[str(word)], out.parent)
    if word not in ("SOURCE", "RANKS"):
        return word
    place = out.parent / f"{word} of {out.name}"
    if word == "RANKS":
        place.write_bytes(ranks())
        return place
    write_hf(Tiny(style="llama-2", kv_heads=8, vocab=512), place)
    (place / "tokenizer.model").write_bytes(sentencepiece_model(512))
    return place


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out, symlinks=True))


def flipped(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def offsets(size: int, samples: int = 9) -> list[int]:
    """The first and the last bytes, and some between them."""
    spread = {size * i // samples for i in range(samples)}
    return sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size)) | spread)


def blamed(folder: Path) -> set[str]:
    """Names of the files that something is wrong with."""
    return {p.file for p in llamatools.check(folder).problems}


def kinds(folder: Path) -> dict[str, set[str]]:
    """{file: what kinds of problems it has}"""
    out: dict[str, set[str]] = {}
    for p in llamatools.check(folder).problems:
        out.setdefault(p.file, set()).add(p.kind)
    return out


def files(folder: Path) -> Iterator[str]:
    yield from tree(folder)


def _hash(kind: str, data: bytes) -> str:
    return blake3(data).hexdigest() if kind == "b3" else hashlib.new(kind, data).hexdigest()


def sums(folder: Path, kind: str, line: str, names: tuple[str, ...] = META_NAMES) -> str:
    """A list of checksums of files in a folder, each line as `line` says."""
    lines = (line.format(h=_hash(kind, (folder / n).read_bytes()), n=n) for n in names)
    return "".join(lines)
