"""Real processes, really stopped: the documented exit code, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.calls import call, leftovers, spawn
from support.sparse import Sizes, write_sparse_hf

SIZES = Sizes(dim=4096, layers=3, heads=32, kv_heads=8, ffn=14336, vocab=32000)
CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.8 GB of holes, which take a second or more to convert."""
    return write_sparse_hf(tmp_path_factory.mktemp("big") / "in", SIZES, CONFIG)


def _stop(process: subprocess.Popen[bytes], out: Path, *signals: int) -> tuple[int, str]:
    """Send signals once output has begun; returns the exit code and what stderr said."""
    deadline = time.monotonic() + 60
    while leftovers(out) == []:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(number: int, code: int, big: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found, err = _stop(spawn("convert", big, out, "--to", "meta"), out, number)
    assert found == code
    assert "stopped; nothing was left behind" in err
    assert "Traceback" not in err
    assert leftovers(out) == []


def test_impatience(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found, err = _stop(spawn("convert", big, out, "--to", "meta"), out, *[signal.SIGINT] * 3)
    assert "Traceback" not in err
    assert (found, leftovers(out)) == (130, [])


def test_the_terminal_is_closed(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _stop(spawn("convert", big, out, "--to", "meta"), out, signal.SIGHUP)
    assert leftovers(out) == []


def test_stopping_leaves_an_old_output_alone(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / "mine").write_text("precious")
    process = spawn("convert", big, out, "--to", "meta", "--force")
    deadline = time.monotonic() + 60
    while len(leftovers(out)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert leftovers(out) == ["x"]
    assert (out / "mine").read_text() == "precious"


def test_stopped_the_moment_the_staging_folder_is_made(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that arrives during the system call is raised when it returns."""
    real = Path.mkdir

    def mkdir(self: Path, *mode: int) -> None:
        real(self, *mode)
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = call("convert", hf, out, "--to", "meta")
    monkeypatch.undo()
    assert done.code == 130
    assert leftovers(out) == []


def _stop_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool], number: int) -> None:
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None or is_time(), process.communicate()
        assert time.monotonic() < deadline
    process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("force", [False, True])
def test_too_late_to_stop(force: bool, number: int, hf: Path, tmp_path: Path) -> None:
    """Once the output stands the run has succeeded, and what it replaced is still removed."""
    out = tmp_path / "out"
    if force:
        out.mkdir()
        for i in range(2000):
            (out / f"old-{i}").touch()
    process = spawn("convert", hf, out, "--to", "meta", *(["--force"] if force else []))
    _stop_when(process, (out / "params.json").exists, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, leftovers(out)) == (0, ["out"]), err
    assert b"stopped" not in err


WHILE_LOADING = """
import os, signal, sys
from llamatools.cli import start

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "llamatools.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
start.run()
"""


def test_stopped_while_modules_load() -> None:
    """Nothing is in place then that could tell of it; but there is no traceback either."""
    done = subprocess.run([sys.executable, "-c", WHILE_LOADING], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
