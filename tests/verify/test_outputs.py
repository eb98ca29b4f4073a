"""What is written is never what is read, and no report outlives the run that a later one breaks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors.torch import save_file
from sharp import Sharp, write
from support.calls import Called, call, spawn, tree

import llamatools
from llamatools.errors import UsageError
from llamatools.verifying import outputs, verify

SMALL = Sharp("small", layers=1, context=64, scaling=None)
FAST = ("--device", "cpu", "--threads", 1)
IDS = '{"ids": [1, 2, 3]}\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(SMALL, tmp_path / "m")


@pytest.fixture
def golden(model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "g.safetensors"
    (tmp_path / "p.jsonl").write_text(IDS)
    words = ("golden", "create", model, "-o", out, "--prompts", tmp_path / "p.jsonl")
    assert call(*words, "-q", *FAST).code == 0
    return out


def _refused(done: Called, folder: Path, before: dict[str, bytes]) -> None:
    assert done.code == 2, (done.out, done.err)
    assert "hint: write it elsewhere" in done.err
    assert tree(folder) == before


# --- outputs that are inputs ----------------------------------------------------------------------


def _itself(file: Path) -> Path:
    return file


def _other_spelling(file: Path) -> Path:
    return file.parent / ".." / file.parent.name / file.name


def _link(file: Path) -> Path:
    link = file.parents[1] / "link"
    link.symlink_to(file)
    return link


def _linked_folder(file: Path) -> Path:
    link = file.parents[1] / "linked"
    link.symlink_to(file.parent)
    return link / file.name


def _hard_link(file: Path) -> Path:
    link = file.parents[1] / "hard"
    os.link(file, link)
    return link


def _new_beside(file: Path) -> Path:
    return file.parent / "params.json"


NAMES = (_itself, _other_spelling, _link, _linked_folder, _hard_link)


@pytest.mark.parametrize("name", (*NAMES, _new_beside))
@pytest.mark.parametrize("part", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_a_golden_does_not_cost_its_model(
    whole: bool, part: str, name: Callable[[Path], Path], model: Path, tmp_path: Path
) -> None:
    out, before = name(model / part), tree(tmp_path)
    source = model if whole else model / "model.safetensors"
    _refused(call("golden", "create", source, "-o", out, "--force", *FAST), tmp_path, before)
    with pytest.raises(UsageError):
        llamatools.create_golden(source, out, force=True)
    assert tree(tmp_path) == before


def test_nor_the_files_of_the_hubs_cache(model: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(model.iterdir())):
        shutil.move(file, blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    before = tree(tmp_path)
    for out in (snapshot / "model.safetensors", blobs / "0", blobs / "new"):
        _refused(call("golden", "create", snapshot, "-o", out, "--force", *FAST), tmp_path, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_does_not_cost_its_prompts(
    name: Callable[[Path], Path], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "q").mkdir()
    prompts = tmp_path / "q" / "p.jsonl"
    prompts.write_text(IDS)
    out, before = name(prompts), tree(tmp_path)
    words = ("golden", "create", model, "-o", out, "--prompts", prompts, "--force")
    _refused(call(*words, *FAST), tmp_path, before)


@pytest.mark.parametrize("name", NAMES)
def test_an_import_costs_neither_logits_nor_model(
    name: Callable[[Path], Path], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "q").mkdir()
    logits = tmp_path / "q" / "plain.safetensors"
    save_file({"tokens": torch.arange(8), "logits": torch.randn(8, SMALL.vocab)}, logits)
    words = ("golden", "import", logits, "--generator", "x", "--force")
    out, before = name(logits), tree(tmp_path)
    _refused(call(*words, "-o", out), tmp_path, before)
    _refused(call(*words, "-o", model / "config.json", "--model", model), tmp_path, before)
    assert call(*words, "-o", tmp_path / "elsewhere", "--model", model).code == 0


def test_reports_cost_no_input(model: Path, golden: Path, tmp_path: Path) -> None:
    """Not even those whose names end as reports do."""
    for name in ("p.xml", "t.html"):
        (tmp_path / name).write_text(IDS)
    other = write(SMALL, tmp_path / "other")
    shutil.copy(golden, tmp_path / "g.html")
    (other / "notes.html").write_text("mine")
    before = tree(tmp_path)
    beside = ("--against", other, "--prompts", tmp_path / "p.xml", "--text", tmp_path / "t.html")
    cases: tuple[tuple[tuple[object, ...], Path], ...] = (
        (beside, tmp_path / "p.xml"),
        (beside, tmp_path / "t.html"),
        (beside, other / "notes.html"),
        (beside, model / "new.xml"),
        (("--golden", tmp_path / "g.html"), tmp_path / "g.html"),
        (("--golden", tmp_path / "g.html"), tmp_path / "m" / ".." / "g.html"),
    )
    for words, out in cases:
        for option in ("--report", "--junit"):
            _refused(call("verify", model, *words, option, out, *FAST), tmp_path, before)


def test_two_reports_are_two_files(model: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    words = ("verify", model, "--golden", golden, "--junit", tmp_path / "a" / "r")
    for other in (tmp_path / "a" / "r", tmp_path / "b" / "r"):
        _refused(call(*words, "--report", other, *FAST), tmp_path / "a", {})
    assert call(*words, "--report", tmp_path / "b" / "s", "-q", *FAST).code == 0
    assert sorted(tree(tmp_path / "a")) == ["r", "s"]


def test_a_conversion_costs_neither_golden_nor_tokenizer(
    model: Path, golden: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "below").mkdir(parents=True)
    shutil.copy(golden, out / "below" / "g")
    (out / "llamatools.json").touch()  # an output of ours, which --force may replace
    before = tree(tmp_path)
    (tmp_path / "linked").symlink_to(out / "below")
    words = ("convert", model, out, "--to", "hf", "--force")
    for more in (
        ("--golden", out / "below" / "g"),
        ("--golden", tmp_path / "linked" / "g"),
        ("--tokenizer", out / "below"),
    ):
        done = call(*words, *more)
        assert done.code == 2 and "lies in the output" in done.err
    assert {n: b for n, b in tree(tmp_path).items() if "linked" not in n} == before
    assert call(*words, "--tokenizer", "none", "-q").code == 0


# --- reports of runs that break -------------------------------------------------------------------


def _passed(model: Path, golden: Path, folder: Path) -> tuple[Path, Path]:
    """Reports of a run that held."""
    xml, page = folder / "r.xml", folder / "r.html"
    words = ("verify", model, "--golden", golden, "--junit", xml, "--report", page, "-q")
    assert call(*words, *FAST).code == 0
    assert 'errors="0"' in xml.read_text() and "✓ holds" in page.read_text()
    return xml, page


def _broken(xml: Path, page: Path, words: str) -> None:
    """Neither file says that anything held; both say why nothing is known."""
    suite = ET.parse(xml).getroot().find("testsuite")
    assert suite is not None
    assert [suite.get(n) for n in ("tests", "failures", "errors")] == ["1", "0", "1"]
    error = suite.find("testcase/error")
    assert error is not None and words in (error.text or ""), error.text
    text = page.read_text()
    assert "could not be judged" in text and words in text
    assert "✓" not in text and "holds" not in text
    assert "//" not in text.split("<body>")[0].split("</title>")[1] and "<script" not in text


BREAKS: dict[str, tuple[int, Callable[[Path, Path], tuple[object, ...]], str]] = {
    "no model": (3, lambda m, g: (m.parent / "none", "--golden", g), "none"),
    "no golden": (3, lambda m, g: (m, "--golden", m.parent / "none"), "no such file"),
    "no settings": (2, lambda m, g: (m,), "nothing to hold the model against"),
    "no room": (2, lambda m, g: (m, "--golden", g, "--max-device-memory", "1KB"), "are allowed"),
    "no device": (2, lambda m, g: (m, "--golden", g, "--device", "cuda:99"), "cuda:99"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_no_verdict_outlives_a_run_that_breaks(
    case: str, model: Path, golden: Path, tmp_path: Path
) -> None:
    xml, page = _passed(model, golden, tmp_path)
    code, words, why = BREAKS[case]
    done = call("verify", *words(model, golden), "--junit", xml, "--report", page)
    assert done.code == code, done.err
    _broken(xml, page, why)


def test_nor_a_defect(
    model: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml, page = _passed(model, golden, tmp_path)

    def fails(*arguments: Any) -> None:
        raise KeyError("<b>what is this</b>")

    monkeypatch.setattr(verify, "judge", fails)
    words = ("verify", model, "--golden", golden, "--junit", xml, "--report", page)
    assert call(*words, *FAST).code == 70
    _broken(xml, page, "KeyError")
    assert "<b>" not in page.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nor_a_signal(number: signal.Signals, model: Path, golden: Path, tmp_path: Path) -> None:
    """It holds even where nothing can be done about it: reports are replaced before the run."""
    xml, page = _passed(model, golden, tmp_path)
    big = write(Sharp("big", layers=24, context=4096), tmp_path / "big")
    words = ("verify", big, "--against", model, "--junit", xml, "--report", page)
    process = spawn(*words, *FAST, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while "✓ holds" in page.read_text() or 'errors="0"' in xml.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    code = process.wait(60)
    assert code == {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
    _broken(xml, page, "was stopped" if number == signal.SIGTERM else "has not ended")
    if number == signal.SIGTERM:
        assert not list(tmp_path.glob(".r.*"))


def test_what_is_said_of_a_run_is_replaced_by_its_verdict(
    model: Path, golden: Path, tmp_path: Path
) -> None:
    xml, page = tmp_path / "r.xml", tmp_path / "r.html"
    with outputs.reports("m", str(xml), str(page)) as write_verdict:
        _broken(xml, page, "has not ended")
        found = call("verify", model, "--golden", golden, "--json", *FAST).json
        write_verdict(found)
    assert 'errors="0"' in xml.read_text() and "✓ holds" in page.read_text()


def test_a_report_that_costs_an_input_leaves_older_ones(
    model: Path, golden: Path, tmp_path: Path
) -> None:
    """Words that are refused are refused before anything is touched."""
    xml, page = _passed(model, golden, tmp_path)
    before = tree(tmp_path)
    words = ("verify", model, "--golden", golden, "--junit", xml)
    assert call(*words, "--report", golden).code == 2
    assert call(*words, "--report", tmp_path / "none" / "r.html").code == 2
    assert tree(tmp_path) == before and page.exists()
