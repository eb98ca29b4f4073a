"""stdout is data, stderr is everything else; nothing from a file reaches a terminal raw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, edit_json, spawn
from support.tiny import Tiny
from support.tiny_files import hf_config, write_hf, write_meta

DIGEST = re.compile(r"[0-9a-f]{64}  \S+\n")


def test_fingerprint_prints_digest_and_path(hf: Path) -> None:
    done = call("fingerprint", hf)
    assert DIGEST.fullmatch(done.out)
    assert done.err.startswith("fingerprint: 100% of ")


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_is_silent(flag: str, hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "out", "--to", "meta", flag)
    assert (done.code, done.out, done.err) == (0, "", "")
    done = call("fingerprint", hf, flag)
    assert done.err == ""
    assert DIGEST.fullmatch(done.out)


def test_quiet_does_not_hide_errors(tmp_path: Path) -> None:
    done = call("fingerprint", tmp_path / "nowhere", "-q")
    assert done.code == 3
    assert "no such file or folder" in done.err


def test_json_is_all_there_is_on_stdout(hf: Path, meta: Path, tmp_path: Path) -> None:
    for words in (
        ("inspect", hf),
        ("fingerprint", hf, meta),
        ("convert", hf, tmp_path / "out", "--to", "meta", "--dry-run"),
        ("convert", hf, tmp_path / "out", "--to", "meta"),
        ("inspect", tmp_path / "nowhere"),
    ):
        done = call(*words, "--json")
        assert isinstance(done.json, dict)
        assert "\x1b" not in done.out


def test_progress_goes_to_stderr(hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "out", "--to", "hf")
    assert "convert: 100% of " in done.err
    assert "%" not in done.out
    assert "fingerprint " in done.out


def _terminal(*arguments: object, **environment: str) -> str:
    """What a process shows on a terminal of its own."""
    import pty

    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = spawn(*arguments, stdout=slave, stderr=slave, stdin=slave, env=env)
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait(30) == 0
    return shown.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")


def test_a_terminal_gets_colours_and_a_bar(hf: Path, tmp_path: Path) -> None:
    edit_json(hf / "config.json", vocab_size=39)
    assert COLOUR.search(_terminal("inspect", hf))
    assert "convert" in _terminal("convert", hf, tmp_path / "out", "--to", "meta")


def test_no_color(hf: Path) -> None:
    edit_json(hf / "config.json", vocab_size=39)
    shown = _terminal("inspect", hf, NO_COLOR="1")
    assert "conflict:" in shown
    assert not COLOUR.search(shown)


def test_pipes_get_no_escapes(hf: Path) -> None:
    process = spawn("inspect", hf)
    out, err = process.communicate(timeout=60)
    assert b"\x1b" not in out + err


EVIL = "a\x1b[31mb\n::error::pwned\r\x07\u202e\u2028c"


def _harmless(text: str) -> None:
    for character in ("\x1b", "\r", "\x07", "\u202e", "\u2028"):
        assert character not in text
    assert not any(line.lstrip().startswith(("::", "##[")) for line in text.splitlines())


def test_evil_tensor_names(tmp_path: Path) -> None:
    save_file(Tiny().truth | {EVIL: torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(Tiny())))
    done = call("inspect", tmp_path)
    assert done.code == 3
    assert "unexpected tensors: a\\x1b[31mb\\n:\\:error:\\:pwned" in done.err
    _harmless(done.err)


def test_evil_file_names(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "in")
    (source / f"{EVIL}.safetensors").write_bytes(b"x")
    (source / "model.safetensors").rename(source / "other.safetensors")
    done = call("inspect", source)
    assert done.code == 3
    _harmless(done.err)
    done = call("inspect", source / f"{EVIL}.safetensors")
    assert done.code == 3
    _harmless(done.err)


def test_evil_travellers(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "in")
    (source / "LICENSE\x1b[31m").write_text("x")
    dry = call("convert", source, tmp_path / "out", "--to", "meta", "--dry-run")
    done = call("convert", source, tmp_path / "out", "--to", "meta")
    assert dry.code == done.code == 0
    _harmless(dry.out + done.out + dry.err + done.err)


@pytest.mark.parametrize("key", ["model_type", "hidden_act", "torch_dtype", EVIL])
def test_evil_configs(key: str, hf: Path) -> None:
    edit_json(hf / "config.json", **{key: EVIL})
    done = call("inspect", hf)
    _harmless(done.out + done.err)
    assert done.code == (3 if key in ("model_type", "hidden_act") else 0)


def test_evil_words_where_lines_are_wrapped(tmp_path: Path) -> None:
    source = write_meta(Tiny(), tmp_path / "in", 1)
    for width in range(40, 80):
        edit_json(source / "params.json", **{"x" * width + " ::error::pwned": 1})
    done = call("inspect", source)
    assert done.code == 0
    _harmless(done.out)


def test_paths_are_shown_as_they_are(hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "a:fire:b", "--to", "meta")
    assert "a:fire:b" in done.out.replace("\n", "")


def test_markup_in_paths_is_shown_as_it_is(hf: Path, tmp_path: Path) -> None:
    done = call("convert", hf, tmp_path / "[red]x", "--to", "meta")
    assert "[red]x" in done.out.replace("\n", "")


def test_a_closed_pipe_is_no_failed_check(hf: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = spawn("fingerprint", hf, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert process.returncode != 1


def test_a_closed_pipe_where_a_failure_is_reported(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = spawn("inspect", tmp_path / "nowhere", "--json", stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err


def test_a_full_disk_under_stdout(hf: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = spawn("inspect", hf, stdout=full)
        _, err = process.communicate(timeout=60)
    assert b"defect" not in err
    assert process.returncode == 4


def test_a_full_disk_under_stderr(hf: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = spawn("convert", hf, tmp_path / "out", "--to", "meta", stderr=full)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_defects_are_one_line_and_a_log(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("x\n::error::y")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("llamatools.checkpoint.open_checkpoint", broken)
    done = call("inspect", hf)
    assert done.code == 70
    assert "a defect in llamatools (ZeroDivisionError" in done.err
    assert "Traceback" not in done.err
    _harmless(done.err)
    (log,) = tmp_path.glob("llamatools-*.log")
    assert "ZeroDivisionError" in log.read_text()


def test_exit_codes_of_a_real_process(hf: Path, tmp_path: Path) -> None:
    def code(*words: object) -> int:
        command = [sys.executable, "-m", "llamatools", *map(str, words)]
        return subprocess.run(command, capture_output=True).returncode

    other = write_hf(Tiny(vocab=41), tmp_path / "other")
    out = tmp_path / "out"
    assert code("convert", hf, out, "--to", "meta") == 0
    assert code("fingerprint", hf, out) == 0
    assert code("fingerprint", hf, other) == 1
    assert code("convert", hf, hf, "--to", "meta") == 2
    assert code("inspect", tmp_path / "nowhere") == 3
    assert code("convert", hf, "/proc/out", "--to", "hf") == 4
    assert code("convert", hf, out, "--to", "meta") == 5


@pytest.mark.parametrize("words", [("inspect",), ("inspect", "--json"), ("nonsense",)], ids=str)
def test_standard_output_that_is_closed(words: tuple[str, ...], hf: Path) -> None:
    """Nobody listens there; the exit code is what it would be."""
    command = [sys.executable, "-m", "llamatools", *words, str(hf)]
    heard = subprocess.run(command, capture_output=True)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (heard.returncode, heard.stderr)


def test_a_pipe_is_no_screen() -> None:
    """Lines are as long as they are, and end where their text does."""
    golden = Path(__file__).parents[2] / "golden" / "llama3-gqa" / "mp2"
    command = [sys.executable, "-m", "llamatools", "inspect", str(golden)]

    def lines(**more: str) -> list[str]:
        # Given, since readline in this process may have told the system of a screen.
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | more
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return done.stdout.splitlines()

    assert not any(line.endswith(" ") for line in lines())
    assert max(map(len, lines())) > 80
    assert max(map(len, lines(COLUMNS="60"))) <= 60


def test_a_terminal_that_knows_nothing_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamatools.cli.progress import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with progress("convert", quiet=False) as begin:
        begin(10)(10)
    assert capsys.readouterr().err.startswith("convert: 100% of 10 B")
