"""Real processes: stopped while they decode, and what they load."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from delta_kit import BASE, with_numbers, write
from support.calls import call, leftovers, spawn


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_decoding(number: int, code: int, tmp_path: Path) -> None:
    base, delta = tmp_path / "base", tmp_path / "delta"
    base.mkdir()
    delta.mkdir()
    (base / "consolidated.00.pth").write_bytes(b"key" * 1000)
    digest = b"\x5a" * 32
    with (delta / f"pytorch_model.bin.{digest.hex()}.enc").open("wb") as f:
        f.write(digest)
        f.truncate(4 << 30)  # a hole, which takes seconds to decode
    out = tmp_path / "out"
    process = spawn("apply-delta", base, delta, out)
    deadline = time.monotonic() + 60
    while leftovers(out) == []:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"stopped; nothing was left behind" in err
    assert b"Traceback" not in err
    assert leftovers(out) == []


SCRIPT = """
import sys
from llamatools.cli import failures, main
words = sys.argv[1:]
code = failures.guard(lambda: main.cli(words, standalone_mode=False), words)
assert code == 0, code
print("torch" in sys.modules, file=sys.stderr)
"""


def _imports_torch(*words: object) -> bool:
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"True": True, "False": False}[done.stderr.split()[-1]]


def test_sums_and_bits_need_no_torch(tmp_path: Path) -> None:
    b, t = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "t"),
    )
    for kind in ("add", "xor"):
        delta = tmp_path / kind
        assert not _imports_torch("make-delta", b, t, delta, "--kind", kind)
        assert not _imports_torch("apply-delta", b, delta, tmp_path / f"out-{kind}")
    assert call("fingerprint", t, tmp_path / "out-add").code == 0
