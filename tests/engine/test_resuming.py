"""A run that is cut short anywhere, and begun again: the same bytes, and only what was missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from support.calls import Called, call, leftovers, spawn, tree
from support.lora import factors, write_adapter
from support.sparse import Sizes, write_sparse_hf
from support.tiny import Tiny, finite
from support.tiny_files import write_hf, write_meta

from llamatools import open_checkpoint
from llamatools.engine import execute, rename, work
from llamatools.engine.journal import Journal
from llamatools.engine.newfile import NewFile
from llamatools.engine.place import place_of
from llamatools.errors import CheckFailed

MODEL = Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40)
WORDS = ("--to", "hf", "--max-shard-size", 20_000, "--jobs", 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_meta(MODEL, tmp_path_factory.mktemp("in") / "meta", 2)
    (folder / "LICENSE").write_text("it goes along")
    return folder


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("wanted") / "out"
    assert call("convert", source, out, *WORDS).code == 0
    return tree(out)


def _shards(wanted: dict[str, bytes]) -> list[str]:
    return sorted(name for name in wanted if name.endswith(".safetensors"))


class _Cut(BaseException):
    """As kill -9: nobody tidies up."""


def _kill_after(parts: int, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]) -> None:
    """Run until so many parts are in the journal, and then no further; nothing is removed."""
    real = work.Work._enter

    def enter(self: work.Work, number: int, done: work.Done) -> None:
        if number >= parts:
            raise _Cut
        real(self, number, done)

    with monkeypatch.context() as m:
        m.setattr(work.Work, "_enter", enter)
        m.setattr("llamatools.engine.place.Place.leave", lambda self, e: self._lock.release())
        with pytest.raises(_Cut):
            call(*words)


def _steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are written from now on."""
    names: list[str] = []
    real = execute.Sink.__init__

    def sink(self: Any, path: Path, layout: Any) -> None:
        names.append(path.name)
        real(self, path, layout)

    monkeypatch.setattr(execute.Sink, "__init__", sink)
    return names


def _lines(out: Path) -> list[Any]:
    return Journal(place_of(out) / "journal").read()


def test_killed_after_each_part(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = _shards(wanted)
    assert len(shards) > 3
    for parts in range(len(shards) - 1):
        out = tmp_path / str(parts) / "out"
        out.parent.mkdir()
        _kill_after(parts, monkeypatch, ("convert", source, out, *WORDS))
        assert leftovers(out) == [".out.llamatools"]
        with monkeypatch.context() as m:
            written = _steps(m)
            done = call("convert", source, out, *WORDS)
        assert done.code == 0, done.err
        assert tree(out) == wanted and leftovers(out) == ["out"]
        assert written == shards[parts:]
        said = f"resuming: {parts} of {len(shards)} files are there"
        assert (said in done.err) == (parts > 0)
        assert ("reading the output back" in done.err) == (parts > 0)
        assert ("\nread back: 100% of" in done.err) == (parts > 0)


def test_a_merge_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the manifest says of digests before, casts, and what the rounding took."""
    model = finite(MODEL)
    base = write_meta(model, tmp_path / "base", 2)
    adapter = write_adapter(tmp_path / "adapter", factors(model, "q_proj", "v_proj"))
    words = ("--to", "hf", "--max-shard-size", 20_000, "--dtype", "fp16")
    assert call("merge-lora", base, adapter, tmp_path / "a", *words).code == 0
    out = tmp_path / "b"
    _kill_after(2, monkeypatch, ("merge-lora", base, adapter, out, *words))
    done = call("merge-lora", base, adapter, out, *words)
    assert "resuming: 2 of" in done.err
    assert tree(out) == tree(tmp_path / "a")


# --- failures -------------------------------------------------------------------------------------


def _full_after(writes: int, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]) -> Called:
    left, real = [writes], os.pwrite

    def pwrite(*a: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*a)

    with monkeypatch.context() as m:
        m.setattr(os, "pwrite", pwrite)
        return call(*words)


def test_the_disk_is_full(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: what is kept is finished, and said; each run comes further than the last."""
    out = tmp_path / "out"
    words = ("convert", source, out, *WORDS)
    for _ in range(20):
        done = _full_after(22, monkeypatch, words)
        if done.code == 0:
            break
        assert (done.code, "No space left" in done.err) == (4, True)
        assert leftovers(out) == [".out.llamatools"]
        kept = {p.name: p.read_bytes() for p in (place_of(out) / "output").iterdir()}
        assert kept and kept.items() <= wanted.items()
        assert f"{len(kept)} of {len(_shards(wanted))} files are finished, and kept in" in done.err
        assert f"    llamatools convert {source} {out} --to hf --max-shard-size" in done.err
    assert tree(out) == wanted and leftovers(out) == ["out"]


def test_the_disk_is_full_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done = _full_after(3, monkeypatch, ("convert", source, out, *WORDS))
    assert (done.code, leftovers(out)) == (4, [])
    assert "kept" not in done.err and "run the same command:" not in done.err


def test_the_command_is_in_the_json(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "it's out"
    words = ("convert", source, out, *WORDS, "--json")
    done = _full_after(20, monkeypatch, words)
    assert "'\"'\"'s out' --to hf" in done.json["error"]["hint"]
    assert call(*words, "--quiet").err == ""
    assert leftovers(out) == ["it's out"]


def test_fsync_fails_while_the_next_part_is_written(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is not in the journal, and fsync is not asked a second time."""
    out = tmp_path / "out"
    bad, asked, real = _shards(wanted)[1], [], os.fsync

    def fsync(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if name == bad:
            asked.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", fsync)
        done = call("convert", source, out, *WORDS)
    assert (done.code, asked) == (4, [bad])
    assert f"{bad}: fsync failed" in done.err
    assert [p.name for p in (place_of(out) / "output").iterdir()] == _shards(wanted)[:1]
    assert "resuming: 1 of" in call("convert", source, out, *WORDS).err
    assert tree(out) == wanted


def test_publishing_fails(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(rename, "_renameat2", lambda *a: errno.EIO)
        assert call("convert", source, out, *WORDS).code == 4
    assert leftovers(out) == [".out.llamatools"]
    assert call("convert", source, out, *WORDS).code == 0
    assert tree(out) == wanted


@pytest.mark.parametrize("how", ["input", "check"])
def test_nothing_is_kept_of_what_would_fail_again(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged input and a check that does not hold, both known when most is written."""
    source, out = write_meta(MODEL, tmp_path / "in", 2), tmp_path / "out"
    if how == "input":
        with open_checkpoint(source) as opened:
            tensor = next(iter(opened.values["norm.weight"].reads()))
        _flip(tensor.file.path, tensor.offset)
    else:
        monkeypatch.setattr("llamatools.conversion.check_finite", _refuse)
    journaled: list[int] = []
    real = work.Work._enter
    monkeypatch.setattr(work.Work, "_enter", lambda *a: journaled.append(real(*a) or 1))
    done = call("convert", source, out, *WORDS)
    assert done.code == (3 if how == "input" else 1), done.err
    assert len(journaled) > 2 and leftovers(out) == []


def _refuse(*args: object) -> None:
    raise CheckFailed("it does not hold")


@pytest.mark.parametrize("what", ["weights", "traveller"])
@pytest.mark.parametrize("how", ["bytes", "longer"])
def test_an_input_that_is_changed_meanwhile(
    what: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may be of both, and is not published; nor does a later run believe it."""
    source = write_hf(MODEL, tmp_path / "in")
    (source / "LICENSE").write_text("x" * 100)
    file = source / ("model.safetensors" if what == "weights" else "LICENSE")
    real = os.preadv if what == "weights" else NewFile.finish
    calls: list[int] = []

    def meddle(*a: Any) -> Any:
        calls.append(1)
        if len(calls) == 12 if what == "weights" else a[0].path.name == "LICENSE":
            with file.open("r+b") as f:
                f.seek(-1, os.SEEK_END)
                f.write(b"!" if how == "bytes" else b"!!")
        return real(*a)

    target = (os, "preadv") if what == "weights" else (NewFile, "finish")
    with monkeypatch.context() as m:
        m.setattr(*target, meddle)
        done = call("convert", source, tmp_path / "out", *WORDS)
    assert (done.code, leftovers(tmp_path / "out")) == (3, []), done.err
    assert f"{file}: was changed while it was read" in done.err


# --- what is not believed -------------------------------------------------------------------------


@pytest.fixture
def left(
    source: Path, tmp_path: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An output of which two parts are finished."""
    out = tmp_path / "out"
    _kill_after(2, monkeypatch, ("convert", source, out, *WORDS))
    assert len(_lines(out)) == 3
    return out


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _cut_off(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _gone(path: Path, at: int) -> None:
    path.unlink()


def _linked(path: Path, at: int) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("damage", [_flip, _cut_off, _gone, _linked])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_not_as_it_was_written(
    damage: Callable[[Path, int], None], which: int, left: Path, source: Path,
    wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shards = _shards(wanted)
    damage(place_of(left) / "output" / shards[which], -100)
    written = _steps(monkeypatch)
    done = call("convert", source, left, *WORDS)
    assert done.code == 0, done.err
    assert "resuming: 1 of" in done.err
    assert (f"{shards[which]}: is not as it was written" in done.err) == (damage is _flip)
    assert written == [shards[which], *shards[2:]]
    assert tree(left) == wanted and leftovers(left) == ["out"]


def test_every_byte_counts(
    left: Path, source: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the digest: without it, the damage is found when it is read back."""
    monkeypatch.setattr(work, "_as_written", lambda path, done: True)
    _flip(place_of(left) / "output" / _shards(wanted)[0], -100)
    done = call("convert", source, left, *WORDS)
    assert (done.code, leftovers(left)) == (1, [])
    assert "read back with other bytes than were written" in done.err


def test_files_that_nobody_claims(left: Path, source: Path, wanted: dict[str, bytes]) -> None:
    folder = place_of(left) / "output"
    (folder / "stray").write_text("x")
    (folder / "folder").mkdir()
    (folder / "folder" / "deep").write_text("x")
    (folder / "link").symlink_to(source)
    before = tree(source)
    assert "resuming: 2 of" in call("convert", source, left, *WORDS).err
    assert tree(left) == wanted and leftovers(left) == ["out"]
    assert tree(source) == before


def test_a_journal_cut_in_a_line(left: Path, source: Path, wanted: dict[str, bytes]) -> None:
    path = place_of(left) / "journal"
    path.write_bytes(path.read_bytes()[:-10])
    done = call("convert", source, left, *WORDS)
    assert "resuming: 1 of" in done.err and tree(left) == wanted


@pytest.mark.parametrize(
    "forged",
    [
        lambda line: line | {"files": []},
        lambda line: line | {"files": [["../../stray", 1, "x"]]},
        lambda line: line | {"files": 3},
        lambda line: line | {"outcome": {"nonsense": 1}},
        lambda line: line | {"outcome": line["outcome"] | {"tensors": {}}},
        lambda line: line | {"checks": [[[99, 0, 1, 2], "x", []]]},
        lambda line: line | {"checks": [[[0, 0, 10, "x"], "x", [[0, 5, 1]]]]},
        lambda line: line | {"checks": [[[0, 0, 10, 1], "x", [["0", 5, 1]]]]},
        lambda line: line | {"checks": [[[0, 0, 10, 1], "x", [[0, -5, 1]]]]},
        lambda line: line | {"checks": [[[-1, 0, 10, 1], "x", [[0, 10, 1]]]]},
        lambda line: line | {"checks": [[[0, 0, 10, 1], "x", [[0, 10, 1 << 32]]]]},
        lambda line: line | {"checks": {}},
        lambda line: line | {"more": 1},
        lambda line: [],
        lambda line: None,
        *(
            lambda line, field=field, value=value: (
                line | {"outcome": line["outcome"] | {field: value}}
            )
            for field, value in (
                ("counts", [1]),
                ("counts", {"x": 1}),
                ("counts", {"x": {"y": "1"}}),
                ("counts", {"x": {"y": 10**1000}}),
                ("before", 7),
                ("before", {"x": 7}),
                ("before", {"x": "0"}),
                ("before", {"x": "g" * 64}),
                ("records_checked", "1"),
                ("records_partial", -1),
                ("records_partial", True),
                ("files", []),
            )
        ),
        lambda line: (
            line
            | {
                "outcome": line["outcome"]
                | {"tensors": {name: [1] for name in line["outcome"]["tensors"]}}
            }
        ),
    ],
)
def test_lines_that_make_no_sense(
    forged: Callable[[Any], Any], left: Path, source: Path, wanted: dict[str, bytes]
) -> None:
    """Under checksums that are right."""
    head, one, two = _lines(left)
    Journal(place_of(left) / "journal").begin([head, one, forged(two)])
    done = call("convert", source, left, *WORDS)
    assert done.code == 0, done.err
    assert "resuming: 1 of" in done.err and tree(left) == wanted


def test_consistent_lies_about_a_tensor(left: Path, source: Path) -> None:
    """The file is as the journal says, and so is each checksum: what is read back is not."""
    head, one, two = _lines(left)
    name = next(iter(one["outcome"]["tensors"]))
    one["outcome"]["tensors"][name] = blake3(b"lie").hexdigest()
    Journal(place_of(left) / "journal").begin([head, one, two])
    done = call("convert", source, left, *WORDS)
    assert (done.code, leftovers(left)) == (1, [])
    assert f"{name}: read back as" in done.err
    assert call("convert", source, left, *WORDS).code == 0


def _touched(source: Path) -> None:
    os.utime(source / "consolidated.00.pth")


def _same_times(source: Path) -> None:
    """Another content under the same name, size and time of change of its data."""
    file = source / "consolidated.01.pth"
    info = file.stat()
    data = bytearray(file.read_bytes())
    file.write_bytes(data)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        (_touched, WORDS, "of inputs that have changed since"),
        (_same_times, WORDS, "of inputs that have changed since"),
        (lambda s: None, (*WORDS, "--dtype", "fp16"), "of another command"),
        (lambda s: None, ("--to", "meta"), "of another command"),
        (lambda s: None, ("--to", "hf", "--max-shard-size", 30_000), "of another command"),
    ],
)
def test_another_command_or_other_inputs(
    change: Callable[[Path], None], words: tuple[object, ...], why: str, source: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    out = tmp_path / "out"
    _kill_after(2, monkeypatch, ("convert", copy, out, *WORDS))
    change(copy)
    done = call("convert", copy, out, *words)
    assert done.code == 0
    assert f"starting over: what an earlier run left was {why}" in done.err
    assert "resuming" not in done.err
    assert call("convert", copy, tmp_path / "fresh", *words).code == 0
    assert tree(out) == tree(tmp_path / "fresh") and leftovers(out) == ["out"]


def test_another_version(
    left: Path, source: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, *rest = _lines(left)
    Journal(place_of(left) / "journal").begin([head | {"version": "0.0.1"}, *rest])
    done = call("convert", source, left, *WORDS)
    assert "starting over: what an earlier run left was another version's" in done.err
    assert tree(left) == wanted


def test_what_does_not_matter(
    left: Path, source: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    """Workers, memory, and where the input lies."""
    moved = source.rename(source.parent / "moved")
    try:
        words = ("--to", "hf", "--max-shard-size", 20_000, "--jobs", 1, "--max-memory", "1MB")
        done = call("convert", moved, left, *words)
    finally:
        moved.rename(source)
    assert "resuming: 2 of" in done.err and tree(left) == wanted


def test_other_small_files(left: Path, tmp_path: Path, source: Path) -> None:
    """They are written again, as they are now."""
    licence = source / "LICENSE"
    licence.write_text("in other words")
    try:
        done = call("convert", source, left, *WORDS)
        assert call("convert", source, tmp_path / "fresh", *WORDS).code == 0
    finally:
        licence.write_text("it goes along")
    assert done.code == 0 and tree(left) == tree(tmp_path / "fresh")


# --- what is said beforehand ----------------------------------------------------------------------


def test_a_dry_run_says_what_is_there(left: Path, source: Path, tmp_path: Path) -> None:
    before = tree(place_of(left))
    assert "an interrupted run left 2 of" in call("convert", source, left, *WORDS, "--dry-run").out
    found = call("convert", source, left, *WORDS, "--dry-run", "--json").json
    assert found["files_finished"] == 2
    other = call("convert", source, left, "--to", "hf", "--dry-run", "--json").json
    assert other["files_finished"] == 0
    assert tree(place_of(left)) == before


def test_space_for_what_is_missing(
    left: Path, source: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a disk that has too little for that takes nothing away."""
    needed = call("convert", source, left, *WORDS, "--dry-run", "--json").json["disk_needed"]
    there = sum(len(wanted[name]) for name in _shards(wanted)[:2])
    with monkeypatch.context() as m:
        m.setattr("llamatools.engine.targets.free_bytes", lambda out: needed - there - 1)
        done = call("convert", source, left, *WORDS)
    assert done.code == 4 and "are needed" in done.err
    assert "2 of" in done.err and leftovers(left) == [".out.llamatools"]
    with monkeypatch.context() as m:
        m.setattr("llamatools.engine.targets.free_bytes", lambda out: needed - there)
        assert call("convert", source, left, *WORDS).code == 0
    assert tree(left) == wanted


# --- real processes -------------------------------------------------------------------------------

BIG = Sizes(dim=1024, layers=4, heads=8, kv_heads=4, ffn=4096, vocab=16000)
CONFIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_process_is_stopped(number: int, code: int, tmp_path: Path) -> None:
    big = write_sparse_hf(tmp_path / "in", BIG, CONFIG)
    out = tmp_path / "out"
    words = ("convert", big, out, "--to", "hf", "--max-shard-size", "12MB")
    process = spawn(*words)
    deadline = time.monotonic() + 60
    while len(_lines(out)) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    if number != signal.SIGKILL:
        assert b"stopped; " in err and b"files are finished, and kept in" in err
        assert f"    llamatools convert {big} {out} --to hf".encode() in err
    done = call(*words)
    assert done.code == 0 and "resuming: " in done.err
    manifest = json.loads((out / "llamatools.json").read_bytes())
    for entry in manifest["files"]:
        assert blake3((out / entry["name"]).read_bytes()).hexdigest() == entry["blake3"]
    assert leftovers(out) == ["out"]


def test_a_model_of_one_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And Meta's N files are one part: each tensor is spread over all of them."""
    hf = write_hf(replace(MODEL, layers=1), tmp_path / "hf")
    monkeypatch.setattr(rename, "_renameat2", lambda *a: errno.EIO)
    for words in (("--to", "hf"), ("--to", "meta", "--shards", 4)):
        out = tmp_path / "out"
        done = call("convert", hf, out, *words)
        assert (done.code, leftovers(out)) == (4, [])


def test_a_model_of_one_file_that_is_to_be_read_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may take as long as writing it."""
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(rename, "_renameat2", lambda *a: errno.EIO)
        assert call("convert", source, out, "--to", "hf", "--verify").code == 4
    written = _steps(monkeypatch)
    assert "resuming: 1 of 1 files" in call("convert", source, out, "--to", "hf").err
    assert written == []
