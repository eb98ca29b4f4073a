"""Folders whose files are not files, lead away, are missing, doubled, or something else."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import (
    MODEL,
    SECRET,
    UP,
    Case,
    Cases,
    archive,
    bin_folder,
    config,
    data,
    header,
    hf,
    meta,
    put,
    simple,
)
from support.forge import safetensors_bytes

INDEX = "model.safetensors.index.json"
PARTS = tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))


def sharded(**changes: Any) -> dict[str, bytes]:
    """The model in three parts with an index; `changes` are those of its weight_map."""
    names = list(MODEL.truth)
    runs = [names[:5], names[5:12], names[12:]]
    out = {"config.json": config()}
    weight_map: dict[str, Any] = {}
    whole = data()
    for part, run in zip(PARTS, runs, strict=True):
        entries = {n: header()[n] for n in run}
        first = entries[run[0]]["data_offsets"][0]
        last = entries[run[-1]]["data_offsets"][1]
        moved = {
            n: e | {"data_offsets": [at - first for at in e["data_offsets"]]}
            for n, e in entries.items()
        }
        out[part] = safetensors_bytes(moved, whole[first:last])
        weight_map |= dict.fromkeys(run, part)
    index = {"metadata": {"total_size": len(whole)}, "weight_map": weight_map | changes}
    return out | {INDEX: json.dumps(index).encode()}


def indexed(target: object, *words: str) -> Case:
    """The index says that a tensor lies in `target`."""
    return simple(lambda: sharded(**{UP: target}), INDEX, *words)


def after(
    files: Callable[[], dict[str, bytes]], edit: Callable[[Path], object], *words: str
) -> Case:
    """Files, and then something done to their folder."""

    def make(folder: Path) -> None:
        put(folder, files())
        edit(folder)

    return Case(make, words)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in place of a file."""

    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return edit


def listen(path: Path) -> None:
    """A socket. Its path may be longer than the system takes, so it is made from within."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    finally:
        os.chdir(here)


def to(target: str) -> Callable[[Path], None]:
    """A link; what is outside of the folder is there, and sound."""

    def link(path: Path) -> None:
        outside = path.parent.parent / "outside"
        put(outside, hf() | {"secret": SECRET.encode()})
        path.symlink_to(target)

    return link


def hub(target: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A snapshot in a hub cache whose weights link to `target`; two repositories are there."""

    def make(folder: Path) -> Path:
        for repo in ("models--a--b", "models--c--d"):
            put(folder / repo / "blobs", {f"{i}" * 40: v for i, v in enumerate(hf().values())})
        snapshot = folder / "models--a--b" / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").symlink_to("../../blobs/" + "0" * 40)
        (snapshot / "model.safetensors").symlink_to(target(folder))
        return snapshot

    return make


def given(name: str, case: Case) -> Case:
    """The same, the file named on the command line."""

    def make(folder: Path) -> Path:
        case.make(folder)
        return folder / name

    return Case(make, case.words, case.code)


def two_levels(folder: Path) -> Path:
    put(folder / "release" / "original", hf())
    return folder / "release"


def empty(folder: Path) -> None:
    folder.mkdir()


W, RANK, CONFIG = "model.safetensors", "consolidated.01.pth", "config.json"
OTHER = "model-00001-of-00002.safetensors"
EVIL = b"cos\nsystem\n(Vtouch canary\ntR."
NOT = "not regular files"

CASES: Cases = {
    "a pipe for weights": after(hf, instead(W, os.mkfifo), W, NOT),
    "a pipe for a rank": after(lambda: meta(2), instead(RANK, os.mkfifo), RANK, NOT),
    "a pipe for a part": after(sharded, instead(PARTS[1], os.mkfifo), NOT, PARTS[1]),
    "a pipe for the config": after(hf, instead(CONFIG, os.mkfifo), CONFIG, "regular"),
    "a pipe for params.json": after(
        lambda: meta(1), instead("params.json", os.mkfifo), "params.json", "regular"
    ),
    "a pipe by name": given(W, after(hf, instead(W, os.mkfifo), W, "not a regular file")),
    "a socket for weights": after(hf, instead(W, listen), W, NOT),
    "a socket for the config": after(hf, instead("config.json", listen), "config.json", "regular"),
    "a folder for weights": after(hf, instead(W, Path.mkdir), W, NOT),
    "a folder for a part": after(sharded, instead(PARTS[0], Path.mkdir), PARTS[0], NOT),
    "a folder for the config": after(
        hf, instead("config.json", Path.mkdir), "config.json", "regular"
    ),
    "a link to a device": after(hf, instead(W, to("/dev/zero")), W, NOT),
    "a link to the terminal": after(hf, instead("config.json", to("/dev/stdin")), "config.json"),
    "a link out of the folder": after(hf, instead(W, to("../outside/" + W)), W, NOT),
    "an absolute link": after(hf, instead(W, to("/etc/passwd")), W, NOT),
    "a config that is a secret": after(
        hf, instead("config.json", to("../outside/secret")), "config.json", "leads away"
    ),
    "an index that is a secret": after(
        lambda: {k: v for k, v in sharded().items() if k != PARTS[0]},
        instead(INDEX, to("../outside/secret")),
        PARTS[0][:10],
    ),
    "a part that is a secret": after(sharded, instead(PARTS[2], to("../outside/secret")), PARTS[2]),
    "a link through /proc": after(hf, instead(W, to(f"/proc/self/cwd/outside/{W}")), W, NOT),
    "a link that climbs and returns elsewhere": after(
        hf, instead(W, to("./../in/../outside/" + W)), W, NOT
    ),
    "links in a circle": after(
        hf,
        lambda f: (
            (f / W).unlink(),
            (f / W).symlink_to("model2.safetensors"),
            (f / "model2.safetensors").symlink_to(W),
        ),
        W,
    ),
    "a link to itself": after(hf, instead(W, lambda p: p.symlink_to(W)), W, NOT),
    "a link to nothing": after(hf, instead(W, lambda p: p.symlink_to("gone")), W, NOT),
    "a link to a link that leads out": after(
        hf,
        lambda f: (
            (f / W).unlink(),
            to("../outside/" + W)(f / "between"),
            (f / W).symlink_to("between"),
        ),
        W,
    ),
    "a link to a folder": after(hf, instead(W, lambda p: p.symlink_to(".")), W, NOT),
    "a secret by name": given(
        W, after(hf, instead(W, to("../outside/secret")), W, "leads out of its folder")
    ),
    "a snapshot into another repository": Case(
        hub(lambda f: f / "models--c--d" / "blobs" / ("1" * 40)), (W, NOT)
    ),
    "a snapshot beyond its blobs": Case(hub(lambda f: Path("../../refs/main")), (W, NOT)),
    "a snapshot into a folder of blobs": Case(hub(lambda f: Path("../../blobs")), (W, NOT)),
    "a snapshot to a system file": Case(hub(lambda f: Path("/etc/hostname")), (W, NOT)),
    "weights above the folder": indexed("../outside/x.safetensors", "plain file name"),
    "weights by an absolute path": indexed("/etc/passwd", "plain file name"),
    "weights in a folder below": indexed("sub/x.safetensors", "plain file name"),
    "weights in the folder itself": indexed(".", "plain file name"),
    "weights in the folder above": indexed("..", "plain file name"),
    "weights nowhere": indexed("", "plain file name"),
    "weights in a number": indexed(7, "plain file name"),
    "weights in null": indexed(None, "plain file name"),
    "weights in a list": indexed([PARTS[0]], "plain file name"),
    "weights with a NUL": indexed("a\0b", "plain file name"),
    "weights of a Windows path": indexed("..\\x", "missing"),
    "weights of CI commands": indexed("\n::error::x\x1b[2J", "missing"),
    "weights that are gone": indexed("model-00004-of-00003.safetensors", "missing"),
    "weights in another part": simple(
        lambda: sharded(**{UP: PARTS[0]}), UP, "the index places it in", PARTS[0]
    ),
    "weights in the config": simple(lambda: sharded(**{UP: "config.json"}), "config.json: not a"),
    "ten thousand bad names": simple(
        lambda: sharded(**{f"t{i}": f"../{i}" for i in range(10_000)}), "more problems"
    ),
    "an index of nothing": simple(lambda: sharded() | {INDEX: b'{"weight_map": {}}'}, "weight_map"),
    "an index without a map": simple(lambda: sharded() | {INDEX: b"{}"}, "weight_map"),
    "an index that is a list": simple(lambda: sharded() | {INDEX: b"[]"}, INDEX, "an array"),
    "a ghost in the index": simple(lambda: sharded(ghost=PARTS[0]), "ghost", "it is nowhere"),
    "a part missing": after(sharded, lambda f: (f / PARTS[1]).unlink(), PARTS[1], "missing"),
    "a part missing, and no index": after(
        sharded, lambda f: ((f / PARTS[1]).unlink(), (f / INDEX).unlink()), "of 3", "missing"
    ),
    "a part of another checkpoint": after(
        sharded,
        lambda f: (
            (f / INDEX).unlink(),
            shutil.copy(f / PARTS[0], f / "model-00001-of-00002.safetensors"),
        ),
        "more than one checkpoint",
    ),
    "a part beside the whole": simple(lambda: sharded() | hf(), "two checkpoints"),
    "a part twice": after(
        sharded,
        lambda f: ((f / INDEX).unlink(), shutil.copy(f / PARTS[0], f / PARTS[1])),
        "is both in",
    ),
    "two parts swapped": simple(
        lambda: sharded() | {PARTS[0]: sharded()[PARTS[1]], PARTS[1]: sharded()[PARTS[0]]},
        "the index places it in",
    ),
    "a truncated part": simple(
        lambda: sharded() | {PARTS[1]: sharded()[PARTS[1]][:-5]}, PARTS[1], "truncated"
    ),
    "an empty part": simple(lambda: sharded() | {PARTS[1]: b""}, PARTS[1], "an empty file"),
    "a part of another kind": simple(
        lambda: sharded() | {PARTS[1]: archive()}, "weight files of several kinds"
    ),
    "a missing rank": after(
        lambda: meta(4), lambda f: (f / "consolidated.02.pth").unlink(), "missing", "2"
    ),
    "the first rank missing": after(
        lambda: meta(2), lambda f: (f / "consolidated.00.pth").unlink(), "0", "missing"
    ),
    "a rank twice": after(
        lambda: meta(1),
        lambda f: shutil.copy(f / "consolidated.00.pth", f / "consolidated.000.pth"),
        "more than one file of a number",
    ),
    "a rank by name": Case(
        lambda f: (put(f, meta(2)), f / "consolidated.00.pth")[1], ("one of several files",), 2
    ),
    "a page for weights": simple(
        lambda: hf(b"<!DOCTYPE html><html>404</html>"), W, "a web page", "download it again"
    ),
    "a page for a rank": simple(
        lambda: {**meta(2), "consolidated.01.pth": b"<html>Access denied</html>"},
        "consolidated.01.pth",
        "a web page",
    ),
    "an XML error for a .bin": simple(
        lambda: bin_folder(b"<?xml version='1.0'?><Error>"), "pytorch_model.bin", "XML"
    ),
    "a page for the config": simple(
        lambda: hf(config_json=b"<!DOCTYPE html>"), "config.json", "not valid JSON"
    ),
    "JSON for weights": simple(lambda: hf(b'{"error": "gated"}'), W, "not a checkpoint file"),
    "a git-lfs pointer": simple(
        lambda: hf(b"version https://git-lfs.github.com/spec/v1\noid"),
        W,
        "git-lfs",
    ),
    "a GGUF file": simple(lambda: hf(b"GGUF\3\0\0\0" + bytes(32)), W, "a GGUF file"),
    "a tar archive": simple(lambda: hf(bytes(257) + b"ustar" + bytes(300)), W, "a tar archive"),
    "a gzip file": simple(lambda: hf(b"\x1f\x8b\x08" + bytes(64)), W, "a gzip file"),
    "a program": simple(lambda: hf(b"\x7fELF" + bytes(range(64))), W, "not a checkpoint file"),
    "zeros": simple(lambda: hf(bytes(100_000)), W, "zeros where"),
    "only pickles of a training": simple(
        lambda: {
            "config.json": config(),
            "optimizer.pt": b"cos\nsystem\n(tR.",
            "scheduler.pt": b"x",
        },
        "no weights",
    ),
    "an adapter": simple(
        lambda: {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "an adapter"
    ),
    "FP8 scales": simple(lambda: {**meta(1), "fp8_scales_0.pt": b"x"}, "FP8"),
    "no files": Case(empty, ("no weights", "no files")),
    "no folder": Case(lambda f: f / "nowhere", ("no such file or folder",)),
    "weights a folder below": Case(two_levels, ("no weights",)),
    "no config": after(hf, lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no params.json": after(
        lambda: meta(1), lambda f: (f / "params.json").unlink(), "params.json is missing"
    ),
}
