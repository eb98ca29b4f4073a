"""Help, versions, usage: what can be seen without a checkpoint."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.calls import call

from llamatools import __version__

COMMANDS = ("convert", "inspect", "fingerprint", "check", "verify")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_commands_and_exit_codes(flag: str) -> None:
    done = call(flag)
    assert done.code == 0
    assert done.err == ""
    for word in (*COMMANDS, "0 holds", "130/143"):
        assert word in done.out


OPTIONS = {
    "convert": [
        "--to [hf|meta|safetensors]", "--dtype [keep|bf16|fp16|fp32]", "--weights", "--shards",
        "--max-shard-size", "--verify / --no-verify", "--golden FILE",
        "--device auto|cuda|cuda:N|mps|cpu", "--dry-run", "--force", "--jobs", "--max-memory",
        "--quiet", "--json",
    ],
    "inspect": ["--json"],
    "verify": [
        "--golden", "--against", "--prompts", "--text", "--gate", "--max-rms", "--junit",
        "--report", "--dtype", "--device", "--resident", "--max-device-memory", "--threads",
        "--json",
    ],
    "check": ["--fingerprint", "--jobs", "--max-memory", "--quiet", "--json"],
    "fingerprint": ["--tensors", "--jobs", "--max-memory", "--quiet", "--json"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str) -> None:
    done = call(command, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: llamatools {command}")
    for option in OPTIONS[command]:
        assert option in done.out
    assert max(map(len, done.out.splitlines())) <= 100


@pytest.mark.parametrize("group", [(), ("golden",), ("tokenizer",)], ids=" ".join)
def test_a_command_has_one_whole_line(
    group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = call(*group, "--help").out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) >= 3
    for line in lines:
        assert line.endswith((".", "?")) and not line.endswith("..."), line
        assert len(line) < 80 and line[2] != " ", line


def test_version() -> None:
    done = call("--version")
    assert (done.code, done.out) == (0, f"llamatools, version {__version__}\n")


WRONG = {
    "no command": [],
    "unknown command": ["transmogrify"],
    "unknown option": ["inspect", ".", "--frobnicate"],
    "no source": ["inspect"],
    "no output": ["convert", "x", "--to", "hf"],
    "no layout": ["convert", "x", "y"],
    "unknown layout": ["convert", "x", "y", "--to", "ggml"],
    "unknown type": ["convert", "x", "y", "--to", "hf", "--dtype", "int4"],
    "no shards": ["convert", "x", "y", "--to", "meta", "--shards", "0"],
    "many shards": ["convert", "x", "y", "--to", "meta", "--shards", "1025"],
    "no jobs": ["fingerprint", "x", "--jobs", "0"],
    "shards of hf": ["convert", "x", "y", "--to", "hf", "--shards", "2"],
    "pth for hf": ["convert", "x", "y", "--to", "hf", "--weights", "pth"],
    "bin for meta": ["convert", "x", "y", "--to", "meta", "--weights", "bin"],
    "shards of one file": [
        "convert", "x", "y", "--to", "meta", "--weights", "safetensors", "--shards", "2",
    ],
    "three sources": ["fingerprint", "a", "b", "c"],
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_wrong_usage(words: list[str]) -> None:
    done = call(*words)
    assert done.code == 2
    assert done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "size", ["0", "-1", "", "5 apples", "1e9", "5GBGB", "five", "0.0000001GB", "nan", "5  GB"]
)
def test_sizes_that_are_none(size: str) -> None:
    done = call("fingerprint", "x", f"--max-memory={size}")
    assert done.code == 2
    assert "is not a size" in done.err


@pytest.mark.parametrize("size", ["300", "1.5GiB", "5 GB", "256mib", "7tb", "12kB", "9B"])
def test_sizes(size: str) -> None:
    done = call("fingerprint", "nowhere", f"--max-memory={size}")
    assert done.code == 3
    assert "no such file or folder" in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_loads_next_to_nothing(arguments: list[str]) -> None:
    """What makes it instant, which a clock on a busy machine cannot tell."""
    script = (
        "import sys; from llamatools.cli import start\n"
        f"sys.argv = ['llamatools', *{arguments!r}]\n"
        "try: start.run()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'numpy', 'rich', 'blake3', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_module_and_console_script_are_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamatools", "--version"], check=True, capture_output=True
    )
    assert done.stdout.decode().startswith("llamatools, version")


def test_the_package_gives_every_name_it_announces() -> None:
    import llamatools

    for name in llamatools.__all__:
        assert getattr(llamatools, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llamatools.nothing  # type: ignore[attr-defined]
