"""`llamatools check` as a command: words, exit codes, JSON, and what it loads."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from check_kit import BASE, copied, flipped, make
from support.calls import Called, call
from support.schemas import check as schema_problems
from support.schemas import parent, paths

import llamatools
from llamatools.errors import IOFailed


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test may change it."""
    return make("hf", tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    out = copied(sound, tmp_path / "damaged")
    flipped(out / "model.safetensors", 200_000)
    (out / "generation_config.json").unlink()
    (out / "README.md").write_text("?")
    return out


def test_words(sound: Path, damaged: Path) -> None:
    done = call("check", sound, damaged)
    assert done.code == 1
    first, second, *rest = done.out.splitlines()
    assert first.startswith(f"{sound}: whole: 4 files, ")
    assert first.endswith(", by llamatools.json")
    assert second == f"{damaged}: not whole: 2 problems"
    assert rest[0] == "  generation_config.json: is missing: llamatools.json has it"
    assert rest[1].startswith("  model.safetensors: BLAKE3 ")
    assert rest[1].endswith("; it is in layers.1.mlp.down.weight")
    assert rest[2] == "  not among them, and harmless: README.md"
    assert "check: 100%" in done.err


def test_quiet(sound: Path, damaged: Path) -> None:
    done = call("check", "-q", sound)
    assert (done.code, done.out, done.err) == (0, "", "")
    done = call("check", "-q", sound, damaged)
    assert (done.code, done.err) == (1, "")
    assert len(done.out.splitlines()) == 4


def test_some_that_cannot_be_checked(sound: Path, damaged: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for folders, code in (((sound, BASE), 3), ((sound, nowhere), 3), ((nowhere, damaged), 1)):
        done = call("check", *folders)
        assert done.code == code
        assert "not checked" in done.out
        report = call("check", *folders, "--json")
        assert (report.code, report.json["holds"]) == (code, False)
        assert schema_problems("check", report.json) == []
        (error,) = (f["error"] for f in report.json["folders"] if f["error"])
        assert (error["kind"], error["exit_code"]) == ("bad-input", 3)


def test_none_that_can_be_checked(tmp_path: Path) -> None:
    done = call("check", tmp_path / "a", tmp_path / "b", "--json")
    assert done.code == 3
    assert schema_problems("error", done.json) == []
    assert len(done.json["error"]["problems"]) == 2
    file = tmp_path / "file"
    file.touch()
    assert "not a folder" in call("check", file).err


def test_json(sound: Path, damaged: Path) -> None:
    done = call("check", sound, "--json", "--fingerprint")
    assert (done.code, done.err) == (0, "")
    (folder,) = done.json["folders"]
    assert folder["fingerprint"] == llamatools.fingerprint(sound).digest
    assert (folder["holds"], folder["problems"], folder["files"]) == (True, [], 4)
    done = call("check", damaged, "--json")
    assert done.code == 1
    missing, digest = done.json["folders"][0]["problems"]
    assert (missing["file"], missing["kind"]) == ("generation_config.json", "missing")
    data = (damaged / "model.safetensors").read_bytes()
    assert digest["found"] == blake3(data).hexdigest()
    assert digest["expected"] == blake3((sound / "model.safetensors").read_bytes()).hexdigest()
    assert len(digest["tensors"]) == 1
    assert done.json["folders"][0]["others"] == ["README.md"]


@pytest.fixture
def report(damaged: Path, sound: Path) -> dict[str, Any]:
    found: dict[str, Any] = call("check", damaged, sound, BASE, "--json", "--fingerprint").json
    return found


def test_the_schema_has_teeth(report: dict[str, Any]) -> None:
    assert schema_problems("check", report) == []
    unnoticed = []
    for path in paths(report):
        for change in ({"no": ["such", "thing"]}, ...):
            wrong = copy.deepcopy(report)
            if change is ...:
                holder = parent(wrong, path)
                if isinstance(holder, list):
                    continue
                del holder[path[-1]]
            else:
                parent(wrong, path)[path[-1]] = change
            if not schema_problems("check", wrong):
                unnoticed.append(path)
    assert unnoticed == []


def _raises(code: int) -> IOFailed:
    return IOFailed(f"reading at byte 0 failed: {os.strerror(code)}")


def test_a_disk_that_cannot_be_read(
    sound: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the file, so that running again may help; what is wrong comes first."""
    from llamatools.containers.base import InputFile

    real = InputFile.read_into

    def failing(self: InputFile, view: memoryview, offset: int) -> None:
        if self.name == "config.json":
            raise _raises(5)
        real(self, view, offset)

    monkeypatch.setattr(InputFile, "read_into", failing)
    done = call("check", sound)
    assert done.code == 4
    assert "config.json: reading at byte 0 failed" in done.out
    assert call("check", damaged).code == 1


def test_a_file_that_shrinks_while_it_is_read(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamatools.containers.base import InputFile

    out = copied(sound, tmp_path / "out")

    def shrinking(self: InputFile) -> None:
        if self.name == "model.safetensors":
            os.truncate(self.path, 1000)

    monkeypatch.setattr(InputFile, "forget", shrinking)
    found = llamatools.check(out)
    assert [(p.file, p.kind) for p in found.problems] == [("model.safetensors", "not-a-file")]


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("memory", [1, 300_000, 1 << 30])
def test_work_and_memory_change_nothing(jobs: int, memory: int, damaged: Path, sound: Path) -> None:
    assert llamatools.check(sound, jobs=jobs, max_memory=max(memory, 1 << 20)).holds
    done = call("check", sound, "--jobs", jobs, "--max-memory", memory)
    assert done.code == 0
    found = llamatools.check(damaged, jobs=jobs, max_memory=memory)
    assert [p.kind for p in found.problems] == ["missing", "digest"]


SCRIPT = """
import sys
from llamatools.cli import failures, main
words = sys.argv[1:]
code = failures.guard(lambda: main.cli(words, standalone_mode=False), words)
print(code, "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("flags", [(), ("--fingerprint",)])
def test_torch_is_not_loaded(flags: tuple[str, ...], sound: Path, damaged: Path) -> None:
    for folder, code in ((sound, 0), (damaged, 1)):
        command = [sys.executable, "-c", SCRIPT, "check", str(folder), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == f"{code} False"


def test_help() -> None:
    done = call("check", "--help")
    assert done.code == 0
    for word in ("--fingerprint", "--jobs", "--max-memory", "--quiet", "--json", "llama3-hf"):
        assert word in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_no_folder() -> None:
    done: Called = call("check")
    assert (done.code, done.out) == (2, "")
