"""Sound checkpoints that strict readers tend to refuse. Each holds kit.MODEL, or says what else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from bad_folders import EVIL, INDEX, listen, sharded
from kit import (
    MODEL,
    NORM,
    Files,
    archive,
    bin_folder,
    config,
    data,
    header,
    hf,
    meta,
    params,
    put,
)
from sound_archives import ARCHIVES, Make, torch_saved
from support.forge import safetensors_bytes
from support.tiny import Tensors, Tiny
from support.tiny_files import write_hf, write_meta

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = replace(MODEL, tied=True)
OLD = replace(MODEL, style="llama-2")
LONG_NORMS = replace(MODEL, norm_dtype=torch.float32)
UNEVEN = replace(MODEL, vocab=21)


def files(make: Callable[[], Files]) -> Make:
    return lambda folder: put(folder, make())


def weights() -> bytes:
    return hf()["model.safetensors"]


def hub(absolute: bool = False, below: str = "", held: Callable[[], Files] = hf) -> Make:
    def make(folder: Path) -> Path:
        repo = folder / "models--meta-llama--Llama-3"
        snapshot = repo / "snapshots" / "0123abcd" / below
        (repo / "refs").mkdir(parents=True)
        (repo / "blobs").mkdir()
        snapshot.mkdir(parents=True)
        for i, (name, content) in enumerate(held().items()):
            blob = repo / "blobs" / f"{i:040x}"
            blob.write_bytes(content)
            (snapshot / name).symlink_to(blob if absolute else os.path.relpath(blob, snapshot))
        return snapshot

    return make


def linked(folder: Path) -> None:
    """The weights are a link to another name in the folder, the config to one in a folder below."""
    put(folder, hf())
    (folder / "real").mkdir()
    (folder / "model.safetensors").rename(folder / "weights.bin")
    (folder / "config.json").rename(folder / "real" / "config.json")
    (folder / "model.safetensors").symlink_to("weights.bin")
    (folder / "config.json").symlink_to("real/config.json")


def through_a_link(folder: Path) -> Path:
    put(folder / "really", hf())
    (folder / "link").symlink_to("really")
    return folder / "link"


def odd_name(folder: Path) -> Path:
    path = folder / " a b\n::error::c\x1b[31m"
    put(path, hf())
    return path


def read_only(folder: Path) -> None:
    put(folder, hf())
    for p in folder.iterdir():
        p.chmod(0o400)


def in_company(folder: Path) -> None:
    """What trainings and downloads leave beside a model; some of it would bite."""
    put(folder, hf())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(EVIL)
    for name in ("README.md", ".gitattributes", "trainer_state.json", "model.onnx", "x.ckpt"):
        (folder / name).write_bytes(b"{broken")
    for name in ("original", "runs", ".cache", "checkpoint-500"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe")
    listen(folder / "socket")
    (folder / "elsewhere").symlink_to("/etc")
    (folder / "nowhere").symlink_to("gone")


def spaced() -> dict[str, bytes]:
    text = json.dumps(header()).encode()
    return hf(safetensors_bytes(text + b" " * (-len(text) % 8 + 1000), data()))


def reordered() -> bytes:
    """Tensors stand in the file in another order than in the header."""
    names = list(MODEL.truth)
    return safetensors_bytes({n: header()[n] for n in reversed(names)}, data())


def buffers() -> dict[str, bytes]:
    """Rotary frequencies, which old files of either layout hold, in fp32."""
    extra, at, tail = {}, len(data()), b""
    for i in range(MODEL.layers):
        n = 4 * MODEL.head_dim // 2
        name = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        extra[name] = {
            "dtype": "F32", "shape": [MODEL.head_dim // 2], "data_offsets": [at, at + n],
        }  # fmt: skip
        at, tail = at + n, tail + bytes(n)
    return hf(safetensors_bytes(header() | extra, data() + tail))


def tied_twice() -> Tensors:
    """The head is there, and is the embedding's own storage."""
    return TIED.truth | {HEAD: TIED.truth[EMBEDDING]}


def tied_copy() -> Tensors:
    return TIED.truth | {HEAD: TIED.truth[EMBEDDING].clone()}


def extra_metadata(folder: Path) -> None:
    put(folder, sharded())
    index = json.loads((folder / INDEX).read_text())
    index["metadata"] = {"total_size": 10**15, "by": "a tool", "nested": {"a": [None]}}
    index["weight_map"].pop(NORM)
    (folder / INDEX).write_text(json.dumps(index))


def stale_index(folder: Path) -> None:
    """Of parts that are gone; the whole model is in one file."""
    put(folder, hf() | {INDEX: sharded()[INDEX]})


SOUND: dict[str, Make] = ARCHIVES | {
    "plain": files(hf),
    "the hub's cache": hub(),
    "the hub's cache, with absolute links": hub(absolute=True),
    "Meta's files in the hub's cache": hub(below="original", held=lambda: meta(2)),
    "an archive in the hub's cache": hub(held=lambda: bin_folder(archive())),
    "links within the folder": linked,
    "a folder that is a link": through_a_link,
    "a folder of an odd name": odd_name,
    "files that nobody may write": read_only,
    "what trainings leave beside it": in_company,
    "null for the metadata": files(
        lambda: hf(safetensors_bytes({"__metadata__": None} | header(), data()))
    ),
    "a padded header": files(spaced),
    "a header in many lines": files(
        lambda: hf(safetensors_bytes(json.dumps(header(), indent=8).encode(), data()))
    ),
    "a header in another order": files(lambda: hf(reordered())),
    "rotary buffers": files(buffers),
    "parts and an index": files(sharded),
    "parts without their index": files(
        lambda: {k: v for k, v in sharded().items() if k != INDEX}
    ),
    "an index with more in it": extra_metadata,
    "an index that is stale": stale_index,
    "one part of one": files(
        lambda: {"config.json": config(), "model-00001-of-00001.safetensors": weights()}
    ),
    "another name": files(lambda: {"config.json": config(), "mine.safetensors": weights()}),
    "a config with more in it": files(
        lambda: hf(config_json=config(auto_map={"x": "y"}, é=[None, 1e-300, -0.0]))
    ),
    "a config of integers": files(lambda: hf(config_json=config(rope_theta=500000))),
    "a config that lies of small things": files(
        lambda: hf(config_json=config(vocab_size=32000, torch_dtype="float64", intermediate_size=7))
    ),
    "Meta's ranks": files(lambda: meta(4)),
    "params.json nested, and with more in it": files(
        lambda: {**meta(2), "params.json": b'{"model": ' + params(max_seq_len=64, x=None) + b"}"}
    ),
}  # fmt: skip

OTHERS: dict[str, tuple[Tiny, Make]] = {
    "vocab_size -1": (OLD, lambda f: write_meta(OLD, f, 2) and None),
    "ranks of uneven vocabularies": (UNEVEN, lambda f: write_meta(UNEVEN, f, 2) and None),
    "key-value heads repeated": (MODEL, lambda f: write_meta(MODEL, f, 4) and None),
    "key-value heads counted once": (
        MODEL, lambda f: write_meta(MODEL, f, 4, stored_kv_heads=2) and None,
    ),
    "norms in fp32": (LONG_NORMS, lambda f: write_hf(LONG_NORMS, f) and None),
    "a tied head in its embedding's storage": (TIED, torch_saved(tied_twice, TIED)),
    "a tied head copied": (TIED, torch_saved(tied_copy, TIED)),
}  # fmt: skip
