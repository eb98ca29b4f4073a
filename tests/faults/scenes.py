"""Commands that write something, each with inputs of a few kilobytes and output in a few files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from forked import run
from support.calls import call
from support.lora import factors, write_adapter
from support.tiny import Tiny, finite
from support.tiny_files import write_hf, write_meta
from support.vocabularies import sentencepiece_model

INPUTS, PLACE = "inputs", "place"
"""What is read, and the folder that the output comes into."""
MODEL = Tiny(heads=4, kv_heads=2, head_dim=4, ffn=24, vocab=40, layers=2)


@dataclass(frozen=True)
class Scene:
    """A command; `make` writes its inputs into a folder and returns its words, OUT among them."""

    name: str
    make: Callable[[Path, Path], Sequence[object]]
    is_file: bool = False
    """Whether the output is one file."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Stage:
    """A scene that is set: inputs made, and its output known from a run without faults."""

    scene: Scene
    root: Path

    @property
    def out(self) -> Path:
        return self.root / PLACE / ("out.safetensors" if self.scene.is_file else "out")

    @property
    def inputs(self) -> Path:
        return self.root / INPUTS

    @cached_property
    def words(self) -> list[str]:
        return [str(w) for w in self.scene.make(self.inputs, self.out)]

    @cached_property
    def wanted(self) -> dict[str, bytes]:
        """What a run without faults leaves in the place of outputs."""
        self.clear()
        # In this process, so that its children find every module loaded.
        threads = torch.get_num_threads()
        done = call(*self.words)
        torch.set_num_threads(threads)
        assert done.code == 0, done.err
        made = contents(self.root / PLACE)
        self.clear()
        return made

    @cached_property
    def old(self) -> dict[str, bytes]:
        """Another output, which --force is to replace: none of its files is the new one's."""
        if self.scene.is_file:
            return {self.out.name: b"what was there before"}
        was = {"llamatools.json": b"{}", "old.safetensors": b"what was there before" * 100}
        return {f"{self.out.name}/{n}": d for n, d in was.items()}

    def clear(self) -> None:
        shutil.rmtree(self.root / PLACE, ignore_errors=True)
        (self.root / PLACE).mkdir(parents=True)

    def put(self, files: dict[str, bytes]) -> None:
        """Clear the place and write these files there."""
        self.clear()
        for name, data in files.items():
            path = self.root / PLACE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(data)


Staged = Callable[[str], Stage]
"""The fixture that sets a scene."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; of empty folders, the name with a slash."""
    out: dict[str, bytes] = {}
    for p in sorted(folder.rglob("*")):
        name = str(p.relative_to(folder))
        if p.is_dir():
            if not any(p.iterdir()):
                out[name + "/"] = b""
        else:
            out[name] = p.read_bytes()
    return out


def _alone(*words: object) -> list[object]:
    """In one thread, so that calls come in one order; without progress."""
    return [*words, "--jobs", 1, "-q"]


def _model() -> Tiny:
    """The same sizes, with numbers in place of random bits."""
    return finite(replace(MODEL))


def _meta_to_hf(inputs: Path, out: Path) -> list[object]:
    write_meta(MODEL, inputs / "meta", 2)
    return _alone("convert", inputs / "meta", out, "--to", "hf", "--max-shard-size", "4KB")


def _hf_to_meta(inputs: Path, out: Path) -> list[object]:
    write_hf(MODEL, inputs / "hf")
    (inputs / "hf" / "LICENSE").write_text("a file that goes along" * 50)
    return _alone("convert", inputs / "hf", out, "--to", "meta", "--shards", 2)


def _to_safetensors(inputs: Path, out: Path) -> list[object]:
    write_meta(MODEL, inputs / "meta", 2)
    return _alone("convert", inputs / "meta", out, "--to", "safetensors")


def _verified(inputs: Path, out: Path) -> list[object]:
    write_hf(MODEL, inputs / "hf")
    return _alone("convert", inputs / "hf", out, "--to", "meta", "--shards", 2, "--verify")


def _merge(inputs: Path, out: Path) -> list[object]:
    model = _model()
    write_hf(model, inputs / "base")
    adapter = write_adapter(inputs / "adapter", factors(model, "q_proj", "v_proj"))
    return _alone("merge-lora", inputs / "base", adapter, out, "--max-shard-size", "6KB")


def _two(inputs: Path) -> tuple[Path, Path]:
    """A base, and a model tuned from it."""
    base = _model()
    write_hf(base, inputs / "base")
    tuned = _model()
    generator = torch.Generator().manual_seed(3)
    for name, t in tuned.truth.items():
        if name.endswith("q_proj.weight"):
            left = torch.randn(t.shape[0], 1, generator=generator)
            noise = left @ torch.randn(1, t.shape[1], generator=generator)
            tuned.truth[name] = (t.float() + 0.1 * noise).to(t.dtype)
    write_hf(tuned, inputs / "tuned")
    return inputs / "base", inputs / "tuned"


def _make_delta(inputs: Path, out: Path) -> list[object]:
    return _alone("make-delta", *_two(inputs), out, "--max-shard-size", "12KB")


def _apply_delta(inputs: Path, out: Path) -> list[object]:
    base, tuned = _two(inputs)
    done = run(["make-delta", base, tuned, inputs / "delta", "-q"], inputs.parent)
    assert done.code == 0, done.err
    return _alone("apply-delta", base, inputs / "delta", out, "--max-shard-size", "6KB")


def _extract(inputs: Path, out: Path) -> list[object]:
    return _alone("extract-lora", *_two(inputs), out, "--rank", 2)


def _with_tokenizer(folder: Path, size: int, rows: int) -> Path:
    model = finite(Tiny(style="llama-2", **{**_sizes(), "vocab": rows}))
    write_meta(model, folder, 1)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(size))
    return folder


def _sizes() -> dict[str, Any]:
    return {"heads": 4, "kv_heads": 4, "head_dim": 4, "ffn": 24, "layers": 1}


def _swap(inputs: Path, out: Path) -> list[object]:
    old = _with_tokenizer(inputs / "model", 420, 420)
    (inputs / "new").mkdir()
    (inputs / "new" / "tokenizer.model").write_bytes(sentencepiece_model(440))
    return _alone("tokenizer", "swap", old, inputs / "new", out, "--to", "meta")


def _tokenizer(inputs: Path, out: Path) -> list[object]:
    inputs.mkdir(parents=True)
    (inputs / "tokenizer.model").write_bytes(sentencepiece_model(420))
    words = ("tokenizer", "convert", inputs / "tokenizer.model", out, "--to", "hf")
    return [*words, "--no-verify"]


def _golden(inputs: Path, out: Path) -> list[object]:
    write_hf(_model(), inputs / "hf")
    (inputs / "prompts").write_text(json.dumps({"ids": [1, 2, 3, 4]}))
    words = ("golden", "create", inputs / "hf", "-o", out, "--prompts", inputs / "prompts")
    return [*words, "--jobs", 1, "--threads", 1, "-q"]


SCENES = {
    s.name: s
    for s in (
        Scene("meta to hf", _meta_to_hf),
        Scene("hf to meta", _hf_to_meta),
        Scene("to safetensors", _to_safetensors),
        Scene("verified", _verified),
        Scene("merge-lora", _merge),
        Scene("make-delta", _make_delta),
        Scene("apply-delta", _apply_delta),
        Scene("extract-lora", _extract),
        Scene("tokenizer swap", _swap),
        Scene("tokenizer convert", _tokenizer),
        Scene("golden create", _golden, is_file=True),
    )
}
