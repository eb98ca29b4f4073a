"""One run at a time for one output, in a folder that nobody else has put there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calls import call, leftovers, spawn, tree

from llamatools import conversion
from llamatools.engine import lock, work
from llamatools.engine.newfile import write_document
from llamatools.engine.place import Place, occupied, place_of, staging
from llamatools.engine.publish import publish, publish_file
from llamatools.errors import IOFailed, OutputExists

HOLDER = """
import sys
from pathlib import Path
from llamatools.engine.place import occupied
with occupied(Path(sys.argv[1])) as place:
    place.clear()
    print("in", flush=True)
    sys.stdin.read()
"""


def _holder(out: Path) -> subprocess.Popen[bytes]:
    """A process that is at work on an output, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"in\n"
    return process


def test_a_second_run(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _holder(out) as process:
        before = sorted(place_of(out).rglob("*"))
        for force in ((), ("--force",)):
            done = call("convert", hf, out, "--to", "meta", *force)
            assert done.code == 5
            assert "error: another run is writing" in done.err and "hint: wait" in done.err
        assert call("convert", hf, tmp_path / "other", "--to", "meta").code == 0
        assert sorted(place_of(out).rglob("*")) == before
        process.kill()
    assert leftovers(out) == [".out.llamatools"]
    assert call("convert", hf, out, "--to", "meta").code == 0  # a dead one holds nothing
    assert leftovers(out) == ["out"]


def test_other_names_for_the_same_output(tmp_path: Path) -> None:
    """Through a link to the parent, and relative to another folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with occupied(tmp_path / "real" / "out"):
        for other in (tmp_path / "link" / "out", tmp_path / "real" / ".." / "real" / "out"):
            with pytest.raises(OutputExists, match="another run"), occupied(other):
                raise AssertionError("it is taken")


def test_threads_of_one_process(tmp_path: Path) -> None:
    """Of several that begin at once one wins; nothing is mixed, and nothing is left."""
    out, ended = tmp_path / "out", []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        try:
            with staging(out) as folder:
                for name in "abc":
                    write_document(folder / name, str(number).encode())
                publish(folder, out, force=False)
            ended.append(number)
        except OutputExists:
            ended.append(None)

    for _ in range(5):
        threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        (winner,) = [n for n in ended if n is not None]
        assert set(tree(out).values()) == {str(winner).encode()}
        assert len(ended) == 8 and leftovers(out) == ["out"]
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
        ended.clear()


def test_processes(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = [spawn("convert", hf, out, "--to", "meta", "-q") for _ in range(3)]
    assert sorted((p.communicate()[1], p.returncode)[1] for p in runs) == [0, 5, 5]
    assert leftovers(out) == ["out"]


def test_force_does_not_mix_them_either(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("convert", hf, out, "--to", "meta").code == 0
    layouts = ("meta", "hf", "meta")
    runs = [spawn("convert", hf, out, "--to", to, "--force", "-q") for to in layouts]
    codes = [(p.communicate()[1], p.returncode)[1] for p in runs]
    assert 0 in codes and set(codes) <= {0, 5}
    assert len(tree(out)) == 3 and leftovers(out) == ["out"]


def test_a_lock_that_is_replaced_while_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is locked then is a file that nobody else will find; so it is tried again."""
    home = place_of(tmp_path / "out")
    real, calls = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            (home / "lock").unlink()
            (home / "lock").touch()
        elif len(calls) == 2:
            (home / "lock").unlink()
            home.rmdir()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with occupied(tmp_path / "out"):
        assert len(calls) == 3
        held = os.open(home / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            real(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
    assert list(tmp_path.iterdir()) == []


def test_another_run_has_published_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputExists, match="exists already"), occupied(out):
        raise AssertionError("it is taken")
    assert leftovers(out) == ["out"]
    with occupied(out, force=True) as place:
        assert place.home.is_dir()


def test_what_a_run_left_that_was_killed_after_publishing(hf: Path, tmp_path: Path) -> None:
    """The same command says that the output is there, and takes the rest away."""
    out = tmp_path / "out"
    assert call("convert", hf, out, "--to", "meta").code == 0
    before = tree(out)
    place_of(out).mkdir()
    for name in ("lock", "journal", "journal.new"):
        (place_of(out) / name).touch()
    with _holder(tmp_path / "other"):
        assert call("convert", hf, out, "--to", "meta").code == 5
    assert leftovers(out) == ["out"] and tree(out) == before


@pytest.mark.parametrize("busy", [False, True])
def test_what_may_be_of_use_stays(busy: bool, hf: Path, tmp_path: Path) -> None:
    """Finished files of a run whose output's name somebody took; and a run that is at work."""
    out = tmp_path / "out"
    with _holder(out) as process:
        (place_of(out) / "output" / "file").write_text("finished")
        out.mkdir()
        if not busy:
            process.kill()
            process.wait()
        assert call("convert", hf, out, "--to", "meta").code == 5
        assert (place_of(out) / "output" / "file").read_text() == "finished"
        process.kill()


# --- file systems without locks -------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_no_locks(code: int, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes the folder has it; nobody knows whether it is at work or dead."""
    out = tmp_path / "out"

    def flock(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with occupied(out):
        done = call("convert", hf, out, "--to", "meta")
        assert done.code == 5
        assert "not known to this file system" in done.err
        assert f"remove {place_of(out)}" in done.err
    assert call("convert", hf, out, "--to", "meta").code == 0
    assert leftovers(out) == ["out"]


def test_locking_fails(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    done = call("convert", hf, tmp_path / "out", "--to", "meta")
    assert (done.code, "lock: locking failed: Input/output error" in done.err) == (4, True)
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["mkdir", "open", "fstat"])
@pytest.mark.parametrize("after", range(3))
def test_entering_fails(
    name: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, real = [after], getattr(os, name)

    def fails(*a: Any, **k: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*a, **k)

    with monkeypatch.context() as m:
        m.setattr(os, name, fails)
        try:
            with staging(tmp_path / "out"):
                pass
        except IOFailed as e:
            assert "No space left" in str(e)
    with staging(tmp_path / "out"):
        pass
    assert leftovers(tmp_path / "out") == []


class _Signal(BaseException):
    pass


@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_while_locking(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        calls.append(how)
        if when == "after":
            real(fd, how)
        if len(calls) == 1:
            raise _Signal
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(_Signal), occupied(tmp_path / "out"):
        raise AssertionError("it was stopped before")
    assert leftovers(tmp_path / "out") == []


def test_stopped_while_everything_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.unlink, []

    def unlink(*a: Any, **k: Any) -> None:
        calls.append(a)
        if len(calls) == 2:
            raise _Signal
        real(*a, **k)

    with pytest.raises(_Signal), staging(tmp_path / "out") as folder:
        for name in "abc":
            (folder / name).touch()
        monkeypatch.setattr(os, "unlink", unlink)
    assert leftovers(tmp_path / "out") == []


# --- what somebody else put there -----------------------------------------------------------------


def _link(home: Path, elsewhere: Path) -> None:
    home.symlink_to(elsewhere)


def _dangling(home: Path, elsewhere: Path) -> None:
    home.symlink_to("nowhere")


def _file(home: Path, elsewhere: Path) -> None:
    home.write_text("precious")


def _lock_link(home: Path, elsewhere: Path) -> None:
    home.mkdir()
    (home / "lock").symlink_to(elsewhere / "precious")


def _lock_new_link(home: Path, elsewhere: Path) -> None:
    home.mkdir()
    (home / "lock").symlink_to(elsewhere / "new")


def _lock_pipe(home: Path, elsewhere: Path) -> None:
    home.mkdir()
    os.mkfifo(home / "lock")


@pytest.mark.parametrize(
    "planted", [_link, _dangling, _file, _lock_link, _lock_new_link, _lock_pipe]
)
def test_nothing_planted_is_used(
    planted: Callable[[Path, Path], None], hf: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    out = tmp_path / "out"
    planted(place_of(out), elsewhere)
    done = call("convert", hf, out, "--to", "meta")
    assert done.code in (4, 5), done.err
    assert "error: " in done.err and "Traceback" not in done.err
    assert tree(elsewhere) == {"precious": b"mine"}
    assert leftovers(out) == [".out.llamatools"]


def test_links_in_the_folder_lead_nowhere(hf: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    out = tmp_path / "out"
    home = place_of(out)
    home.mkdir()
    (home / "output").symlink_to(elsewhere)
    (home / "journal").symlink_to(elsewhere / "precious")
    (home / "old").symlink_to(elsewhere)
    assert call("convert", hf, out, "--to", "meta", "--force").code in (0, 5)
    assert tree(elsewhere) == {"precious": b"mine"}


def test_somebody_elses_folder(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_of(tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    done = call("convert", hf, tmp_path / "out", "--to", "meta")
    assert (done.code, "somebody else's" in done.err) == (5, True)


def test_the_folder_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with occupied(tmp_path / "out") as place:
            assert place.home.stat().st_mode & 0o777 == 0o700
            assert (place.home / "lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [243, 244, 250, 255])
@pytest.mark.parametrize("letter", ["n", "\u00e9", "\udcff"])
def test_long_names(letter: str, size: int, tmp_path: Path) -> None:
    """Cut, and still of one output only."""
    width = len(os.fsencode(letter))
    name = letter * (size // width)
    outs = [tmp_path / name, tmp_path / (name[:-1] + "x" * width)]
    homes = {place_of(out) for out in outs}
    assert len(homes) == 2
    for out in outs:
        assert len(os.fsencode(place_of(out).name)) <= 255
        with staging(out) as folder:
            write_document(folder / out.name, b"x")
            publish_file(folder / out.name, out)
    assert len(tree(tmp_path)) == 2


def test_an_input_that_an_interrupted_run_left(hf: Path, tmp_path: Path) -> None:
    """It would be removed before it is read."""
    out = tmp_path / "out"
    kept = place_of(out) / "output"
    kept.parent.mkdir()
    hf.rename(kept)
    before = tree(kept)
    for source in (kept, kept / "model.safetensors"):
        done = call("convert", source, out, "--to", "meta")
        assert (done.code, "interrupted run" in done.err) == (2, True)
    assert tree(kept) == before


def test_a_place_is_left_as_it_was_found(tmp_path: Path) -> None:
    """Until somebody has looked at what an earlier run left there."""
    home = place_of(tmp_path / "out")
    (home / "output").mkdir(parents=True)
    (home / "output" / "file").write_text("x")
    with pytest.raises(IOFailed), occupied(tmp_path / "out") as place:
        assert isinstance(place, Place)
        raise IOFailed("before anything was done")
    assert tree(home) == {"lock": b"", "output/file": b"x"}


def test_a_lock_says_whether_it_is_sure(tmp_path: Path) -> None:
    held = lock.take(tmp_path, tmp_path / "out", made=False)
    assert held is not None and held.sure
    held.remove()
    assert lock.take(tmp_path / "gone", tmp_path / "out", made=False) is None


@pytest.mark.parametrize("removed", ["", "lock"])
@pytest.mark.parametrize("at", ["execute", "check_unchanged"])
def test_a_place_that_is_removed_under_a_run(
    removed: str, at: str, meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tidies up, and starts again: the first run keeps its hands off the second's."""
    out, words = tmp_path / "out", ("--to", "hf", "--max-shard-size", 20_000)
    module = work if at == "execute" else conversion
    real, others = getattr(module, at), []

    def meanwhile(*arguments: Any) -> Any:
        found = real(*arguments)
        if not others:
            path = place_of(out) / removed
            path.unlink() if removed else shutil.rmtree(path)
            others.append(_holder(out))
        return found

    monkeypatch.setattr(module, at, meanwhile)
    done = call("convert", meta, out, *words)
    assert done.code == 4 and "nothing was published" in done.err
    assert sorted(p.name for p in place_of(out).iterdir()) == ["lock", "output"]  # the other's
    assert list((place_of(out) / "output").iterdir()) == [] and not out.exists()
    with others[0] as process:
        process.communicate()
    assert leftovers(out) == []


@pytest.mark.parametrize("at", ["publish", "publish_file"])
def test_nor_is_the_other_run_s_output_published(at: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(IOFailed, match="nothing was published"), staging(out) as folder:
        write_document(folder / out.name, b"mine")
        shutil.rmtree(place_of(out))
        with _holder(out) as other:
            (folder / out.name).write_bytes(b"the other's")
            publish(folder, out, force=False) if at == "publish" else publish_file(
                folder / out.name, out
            )
            other.kill()
    assert not out.exists()


def test_a_folder_of_somebody_is_no_place(hf: Path, tmp_path: Path) -> None:
    """Even where its name is that of one."""
    mine = place_of(tmp_path / "out")
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    done = call("convert", hf, tmp_path / "out", "--to", "meta")
    assert done.code == 5 and "is in the way: no run of llamatools left config.json" in done.err
    assert tree(mine) == {"config.json": b"{}"}
    done = call("convert", hf, tmp_path / ".x.llamatools", "--to", "meta")
    assert done.code == 2 and "has not finished" in done.err


@pytest.mark.parametrize("kind", ["link", "file"])
def test_an_output_that_was_lost_is_a_folder(kind: str, hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    place_of(out).mkdir()
    old = place_of(out) / "old"
    old.symlink_to(hf) if kind == "link" else old.write_text("x")
    done = call("convert", hf, out, "--to", "meta")
    assert done.code == 0 and "it is back" not in done.err
    assert leftovers(out) == ["out"] and not out.is_symlink()
