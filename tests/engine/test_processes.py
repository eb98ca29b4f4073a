"""torchrun: the same bytes from several processes, and one message and no output when one fails."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from support.calls import Called, call, leftovers, tree
from support.lora import plain
from support.processes import by_hand, ended, in_threads, start_torchrun, torchrun
from support.tiny import Tiny, finite
from support.tiny_files import write_hf

from llamatools.cli import several
from llamatools.cli.main import cli
from llamatools.errors import UsageError

Start = Callable[..., list[Called]]
STARTS = pytest.mark.parametrize(
    "start",
    [
        pytest.param(in_threads, id="threads"),
        pytest.param(by_hand, id="processes", marks=pytest.mark.slow),
    ],
)
SHARDED = ("--to", "hf", "--max-shard-size", "4KB")


@pytest.fixture
def model() -> Tiny:
    return finite(Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40))


def _quietly(done: list[Called]) -> Called:
    """What process 0 left; the others have nothing to say."""
    assert [d.out + d.err for d in done[1:]] == [""] * (len(done) - 1)
    assert "Traceback" not in done[0].err
    return done[0]


# --- the same bytes -------------------------------------------------------------------------------

CASES: dict[str, tuple[str, int, tuple[object, ...]]] = {
    "hf-to-2": ("hf", 2, ("--to", "meta", "--shards", 2)),
    "hf-to-4": ("hf", 3, ("--to", "meta", "--shards", 4)),
    "meta-to-hf": ("meta", 2, SHARDED),
    "cast": ("meta", 3, (*SHARDED, "--dtype", "fp16")),
    "fewer-files": ("meta", 3, ("--to", "safetensors", "--verify")),
}


def _by_torchrun(count: int, *words: object) -> list[Called]:
    return [torchrun(count, *words)]


@pytest.mark.parametrize("case", CASES)
@STARTS
def test_convert(start: Start, case: str, hf: Path, meta: Path, tmp_path: Path) -> None:
    source, count, options = CASES[case]
    words = ("convert", {"hf": hf, "meta": meta}[source])
    one, many = tmp_path / "one", tmp_path / "many"
    alone = call(*words, one, *options, "--json")
    done = _quietly(start(count, *words, many, *options, "--json"))
    assert (alone.code, done.code) == (0, 0), done.err
    assert done.json == alone.json
    assert tree(many) == tree(one)
    assert leftovers(many) == ["many"]


def test_convert_under_torchrun(hf: Path, meta: Path, tmp_path: Path) -> None:
    """One JSON comes out: others print nothing."""
    test_convert(_by_torchrun, "hf-to-2", hf, meta, tmp_path)


@STARTS
def test_merge(start: Start, model: Tiny, meta: Path, tmp_path: Path) -> None:
    adapter = plain(model, tmp_path / "adapter")
    one, many = tmp_path / "one", tmp_path / "many"
    alone = call("merge-lora", meta, adapter, one, *SHARDED)
    done = _quietly(start(2, "merge-lora", meta, adapter, many, *SHARDED))
    assert (alone.code, done.code) == (0, 0), done.err
    assert tree(many) == tree(one)
    assert done.out.replace("many", "one") == alone.out


def test_another_case_has_other_bytes(hf: Path, tmp_path: Path) -> None:
    """What `test_convert` compares can differ: the manifest has the options, files have sizes."""
    trees = []
    for case in ("hf-to-2", "hf-to-4"):
        assert call("convert", hf, tmp_path / case, *CASES[case][2]).code == 0
        trees.append(tree(tmp_path / case))
    names = [n for n in trees[0].keys() & trees[1].keys() if trees[0][n] != trees[1][n]]
    assert {"llamatools.json", "consolidated.00.pth"} <= set(names)


@STARTS
def test_replacing_an_output(start: Start, hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("old")
    done = _quietly(start(2, "convert", hf, out, *SHARDED, "--force"))
    assert done.code == 0, done.err
    assert not (out / "mine").exists() and leftovers(out) == ["out"]


@STARTS
def test_dry_run(start: Start, hf: Path, tmp_path: Path) -> None:
    words = ("convert", hf, tmp_path / "out", *SHARDED, "--dry-run")
    done = start(2, *words)
    assert [d.code for d in done] == [0, 0]
    assert "nothing was written" in _quietly(done).out
    assert leftovers(tmp_path / "out") == []


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "codes", "words"),
    [
        ("1=reads", [4, 4], "process 1: .*reading at byte .*Input/output error"),
        ("0=reads", [4, 4], "reading at byte .*Input/output error"),
        ("1=bug", [4, 70], "process 1: KeyError.*what is this"),
        ("1=dies", [4, -signal.SIGKILL], "nothing was heard of process 1"),
        ("1=lies", [1, 1], "norm.weight: process 1 read other values"),
    ],
)
@STARTS
def test_one_fails(
    start: Start, how: str, codes: list[int], words: str, hf: Path, tmp_path: Path
) -> None:
    """Nobody ends the others: they learn of it, at work or waiting."""
    out = tmp_path / "out"
    done = start(2, "convert", hf, out, "--to", "meta", "--shards", 2, how=how)
    assert [d.code for d in done] == codes, done
    assert re.search(words, _quietly(done).err)
    assert done[0].err.count("error: ") == 1
    assert leftovers(out) == []


def test_one_fails_and_nobody_ends_the_others(hf: Path, tmp_path: Path) -> None:
    how, codes, words = "1=reads", [4, 4], "process 1: .*reading at byte .*Input/output error"
    test_one_fails(by_hand, how, codes, words, hf, tmp_path)


@STARTS
def test_the_first_dies(start: Start, hf: Path, tmp_path: Path) -> None:
    """Its staging folder stays, as when it is alone; but no output, and nobody who waits."""
    out = tmp_path / "out"
    done = start(3, "convert", hf, out, "--to", "meta", "--shards", 2, how="0=dies")
    assert [d.code for d in done] == [-signal.SIGKILL, 4, 4]
    assert not out.exists()


@pytest.mark.slow
def test_one_is_killed_under_torchrun(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = torchrun(2, "convert", hf, out, *SHARDED, how="1=dies,0=slow")
    assert done.code == 1
    assert "nothing was left behind" in done.err
    assert leftovers(out) == []


@pytest.mark.slow
def test_one_fails_under_torchrun(hf: Path, tmp_path: Path) -> None:
    """torchrun stops the others; the message is the reason all the same."""
    out = tmp_path / "out"
    done = torchrun(3, "convert", hf, out, *SHARDED, how="1=reads,0=slow,2=slow")
    assert done.code == 1
    assert re.search("^error: process 1: .*reading at byte", done.err, re.MULTILINE)
    assert "stopped; nothing" not in done.err
    assert leftovers(out) == []


def _staged(out: Path) -> bool:
    return any(p.suffix in (".pth", ".safetensors") for p in out.parent.glob(f".{out.name}.*/*/*"))


def _when(is_time: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_stopped(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_torchrun(2, "convert", hf, out, *SHARDED, how="0=slow,1=slow")
    _when(lambda: _staged(out), process)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code != 0
    assert done.err.count("stopped; nothing was left behind") == 1
    assert leftovers(out) == []


@STARTS
def test_output_exists(start: Start, hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = start(2, "convert", hf, out, *SHARDED, "--json")
    assert [d.code for d in done] == [5, 5]
    assert _quietly(done).json["error"]["kind"] == "output-exists"
    assert "error: " in done[0].err and "process 1" not in done[0].err


@STARTS
def test_wrong_words(start: Start, hf: Path, tmp_path: Path) -> None:
    done = start(2, "convert", hf, tmp_path / "out", "--to", "nowhere")
    assert [d.code for d in done] == [2, 2]
    assert "nowhere" in _quietly(done).err


@STARTS
def test_no_shared_file_system(start: Start, hf: Path, tmp_path: Path) -> None:
    """As machines have it: the same path, and another folder behind it."""
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    words = ("convert", hf, "out", *SHARDED)
    done = start(2, *words, how="0=fast", folders=folders)
    assert [d.code for d in done] == [2, 2]
    assert "is not the folder that process 0 writes to" in _quietly(done).err
    assert "a file system that all share" in done[0].err
    assert [list(f.iterdir()) for f in folders] == [[], []]


@STARTS
def test_another_input(start: Start, hf: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    shutil.copytree(hf, folders[0] / "in")
    write_hf(Tiny(layers=3), folders[1] / "in")
    out = tmp_path / "out"
    done = start(2, "convert", "in", out, *SHARDED, how="0=fast", folders=folders)
    assert [d.code for d in done] == [3, 3]
    assert "process 1: another input" in _quietly(done).err
    assert leftovers(out) == []


@STARTS
def test_copies_that_differ_are_found_by_any_process(
    start: Start, model: Tiny, meta: Path, tmp_path: Path
) -> None:
    """A norm that only the second process reads; the first says it."""
    out = tmp_path / "out"
    plan = call("convert", meta, out, *SHARDED, "--dry-run", "--json").json
    odd = {f["name"] for f in plan["files"][1::2]}
    norms = {"layers.0.mlp.norm.weight", "layers.1.mlp.norm.weight", "norm.weight"}
    name = next(
        s["name"]
        for s in plan["steps"]
        if s["name"] in norms and odd >= {t["file"] for t in s["targets"]}
    )
    other = meta / "consolidated.01.pth"
    tensors = torch.load(other)
    tensors[name.replace("mlp.norm", "ffn_norm")][3] += 1
    torch.save(tensors, other)
    done = start(2, "convert", meta, out, *SHARDED, how="0=slow")
    assert [d.code for d in done] == [3, 3]
    assert f"error: process 1: {name}: " in _quietly(done).err
    assert "differs from" in done[0].err
    assert leftovers(out) == []


# --- which commands -------------------------------------------------------------------------------


def _leaves(command: click.Command, name: str = "") -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    below = (_leaves(c, f"{name} {n}".strip()) for n, c in command.commands.items())
    return {n: c for leaves in below for n, c in leaves.items()}


def test_every_other_command_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    leaves = _leaves(cli)
    assert several._SHARING.keys() < leaves.keys()
    for name in leaves.keys() - several._SHARING.keys():
        callback = leaves[name].callback
        assert callback is not None
        with pytest.raises(UsageError, match=f"{name} is the work of one process"):
            callback()


@pytest.mark.slow
def test_refusing(hf: Path, tmp_path: Path) -> None:
    done = by_hand(2, "fingerprint", hf, "--json")
    assert [d.code for d in done] == [2, 2]
    assert _quietly(done).json["error"]["kind"] == "usage"
    assert "hint: run it without torchrun" in done[0].err


def test_one_process_of_torchrun_is_one(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MASTER_ADDR": "x", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert call("fingerprint", hf).code == 0
    assert call("convert", hf, tmp_path / "out", "--to", "meta").code == 0


def test_an_environment_of_no_numbers(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "x", "RANK": "0", "WORLD_SIZE": "many"}.items():
        monkeypatch.setenv(name, value)
    done = call("fingerprint", hf)
    assert done.code == 2
    assert "WORLD_SIZE=many" in done.err
