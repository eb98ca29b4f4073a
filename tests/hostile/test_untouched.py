"""Whatever is asked for, inputs stay as they are, and messages stay bounded and harmless."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bad_folders import to
from kit import CANARY, MODEL, SECRET, config, data, header, hf, meta, put, unchanged
from sound import hub
from support.calls import call
from support.forge import safetensors_bytes
from support.lora import plain
from support.tiny import finite
from support.tiny_files import write_hf

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput
from llamatools.opening.folder import scan

# Where the output may not be, seen from the folder of a snapshot in the hub's cache.
TAKEN = (".", "out", "a/b", "..", "../..", "../../..", "../../blobs", "../../blobs/out")


@pytest.mark.parametrize("place", TAKEN)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_hubs_cache_is_no_place_for_output(
    place: str, force: tuple[str, ...], tmp_path: Path
) -> None:
    """The files that a snapshot links to lie elsewhere; they are the input all the same."""
    snapshot = hub()(tmp_path / "in")
    assert snapshot is not None
    (snapshot / "a").mkdir()
    with unchanged(tmp_path):
        done = call("convert", snapshot, snapshot / place, "--to", "meta", *force)
    assert done.code == 2, done.err
    assert "inside or around it" in done.err


@pytest.mark.parametrize("place", ["in", "in/out", "in/../in", "link", "link/out", "x/../in/out"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_no_name_of_the_input_is_a_place_for_output(
    place: str, force: tuple[str, ...], tmp_path: Path
) -> None:
    put(tmp_path / "in", hf())
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("in")
    with unchanged(tmp_path):
        done = call("convert", tmp_path / "in", tmp_path / place, "--to", "meta", *force)
    assert done.code == 2, done.err


def test_outputs_may_lie_beside_a_snapshot(tmp_path: Path) -> None:
    snapshot = hub()(tmp_path / "in")
    assert snapshot is not None
    assert call("convert", snapshot, snapshot.parent / "other", "--to", "meta").code == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_that_appears_after_the_look(name: str, tmp_path: Path) -> None:
    put(tmp_path / "in", hf())
    folder = scan(tmp_path / "in")
    (folder.path / name).unlink()
    to("../outside/secret")(folder.path / name)
    with pytest.raises(BadInput, match="a link that leads out of its folder"):
        InputFile(folder.path / name)
    assert InputFile(tmp_path / "outside" / "secret").size == len(SECRET)


def test_a_pipe_that_appears_after_the_look(tmp_path: Path) -> None:
    put(tmp_path / "in", hf())
    folder = scan(tmp_path / "in")
    (folder.path / "config.json").unlink()
    os.mkfifo(folder.path / "config.json")
    with pytest.raises(BadInput, match="is not a regular file"):
        folder.json("config.json")


def test_travellers_that_are_left_behind_are_named(tmp_path: Path) -> None:
    put(tmp_path / "in", hf())
    to("../outside/secret")(tmp_path / "in" / "tokenizer.json")
    os.mkfifo(tmp_path / "in" / "LICENSE")
    done = call("convert", tmp_path / "in", tmp_path / "out", "--to", "meta", "--json")
    assert done.code == 0, done.err
    assert (
        "links that lead away, or no regular files: LICENSE, tokenizer.json" in done.json["notes"]
    )
    assert SECRET not in str([p.read_text("latin-1") for p in (tmp_path / "out").iterdir()])


def test_pickles_of_a_training_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "in", meta(2))
    extra = [tmp_path / "in" / n for n in ("optimizer.pt", "scheduler.pt", "training_args.bin")]
    for path in extra:
        path.write_bytes(b"x")
    opened: list[object] = []
    before = os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: (opened.append(p), before(p, *a, **k))[1])
    assert call("convert", tmp_path / "in", tmp_path / "out", "--to", "hf").code == 0
    assert tmp_path / "in" / "consolidated.01.pth" in opened
    assert not set(extra) & set(opened)


def test_a_hostile_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bad_pickles import CASES

    monkeypatch.chdir(tmp_path)
    base = write_hf(finite(MODEL), tmp_path / "base")
    CASES["calls os.system"].make(tmp_path / "made")
    adapter = plain(MODEL, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    (tmp_path / "made" / "pytorch_model.bin").rename(adapter / "adapter_model.bin")
    with unchanged(tmp_path):
        done = call("merge-lora", base, adapter, tmp_path / "out")
    assert done.code == 3
    assert "adapter_model.bin" in done.err
    assert "os.system" in done.err
    assert not Path(CANARY).exists()


# Messages.


def test_a_flood_of_problems_is_cut(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(*args: object, **options: object) -> None:
        raise BadInput([f"problem {i}" for i in range(10_000)])

    monkeypatch.setattr("llamatools.checkpoint.open_checkpoint", flood)
    done = call("inspect", hf, "--json")
    assert done.err.count("error: problem") == 100
    assert "error: and 9,900 more problems" in done.err
    assert len(done.json["error"]["problems"]) == 101


def test_json_holds_no_commands_and_says_the_same(tmp_path: Path) -> None:
    name = "###[error]x##vso[task.setvariable]y####"
    tensors = header() | {name: {"dtype": "BF16", "shape": [0], "data_offsets": [len(data())] * 2}}
    put(tmp_path / "in", hf(safetensors_bytes(tensors, data())))
    (tmp_path / "in" / f"LICENSE {name}").write_text("x")
    done = call("inspect", tmp_path / "in", "--json")
    assert done.code == 3
    assert "##" not in done.out + done.err
    put(tmp_path / name, hf())
    done = call("fingerprint", tmp_path / name, "--json")
    assert done.code == 0, done.err
    assert "##" not in done.out
    assert done.json["fingerprints"][0]["source"] == str(tmp_path / name)


def test_out_of_memory(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("llamatools.checkpoint.open_checkpoint", full)
    done = call("inspect", hf, "--json")
    assert done.code == 4
    assert done.err.startswith("error: out of memory\n\nhint: ")
    assert done.json["error"]["kind"] == "io"


def test_a_defect_where_no_log_can_be_written(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RecursionError("x\n::error::y")

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llamatools.checkpoint.open_checkpoint", broken)
    monkeypatch.setattr("tempfile.mkstemp", full)
    done = call("inspect", hf)
    assert done.code == 70
    assert "a defect in llamatools (RecursionError" in done.err
    assert "that could not be written: test_untouched.py, line" in done.err
    assert "Traceback" not in done.err
    assert "\n::" not in done.err


def test_a_config_is_named_though_the_error_is_deep(tmp_path: Path) -> None:
    put(tmp_path / "in", hf(config_json=config(num_hidden_layers=json.loads("1" * 20))))
    done = call("inspect", tmp_path / "in")
    assert done.code == 3
    assert "config.json: num_hidden_layers: expected a positive whole number" in done.err
