"""`verify` and `golden` from the command line: exit codes, reports, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import load_file, save_file
from sharp import Sharp, write
from support.calls import Called, call, edit_json, leftovers, tree

from llamatools.cli import verify as command
from llamatools.verifying.gates import GATES

SMALL = Sharp("small", layers=2, context=256, scaling=None, vocab=512)
ROOT = Path(__file__).parents[2]
SCHEMAS = {p.stem: json.loads(p.read_text()) for p in (ROOT / "schemas").glob("*.json")}
FAST = ("--device", "cpu", "--threads", 1)


def check(name: str, document: object) -> list[str]:
    return [e.message for e in Draft202012Validator(SCHEMAS[name]).iter_errors(document)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer beside it."""
    folder = write(SMALL, tmp_path_factory.mktemp("model") / "m")
    shutil.copy(ROOT / "golden" / "tokenizer" / "tokenizer.model", folder)
    return folder


@pytest.fixture(scope="module")
def golden(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "g.safetensors"
    done = call("golden", "create", model, "-o", out, *FAST)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def wrong(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gate and up of layer 1 swapped."""
    folder = tmp_path_factory.mktemp("wrong") / "m"
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    a, b = (f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up"))
    tensors[a], tensors[b] = tensors[b], tensors[a]
    save_file(tensors, folder / "model.safetensors")
    return folder


def _verify(*words: object) -> Called:
    return call("verify", *words, *FAST)


# --- verdicts -------------------------------------------------------------------------------------


def test_a_golden_of_its_own_holds_exactly(model: Path, golden: Path) -> None:
    done = _verify(model, "--golden", golden, "--gate", "exact", "--json")
    assert done.code == 0, done.out
    assert done.json["overall"]["rms"] == 0.0 == done.json["overall"]["max_kl"]
    assert done.json["reference"]["own"] is True
    assert any("llamatools' own" in n for n in done.json["notes"])


@pytest.mark.parametrize("to", ["hf", "meta"])
def test_layouts_hold_exactly(to: str, model: Path, golden: Path, tmp_path: Path) -> None:
    assert call("convert", model, tmp_path / "o", "--to", to, "-q").code == 0
    assert _verify(tmp_path / "o", "--golden", golden, "--gate", "exact").code == 0


def test_what_is_wrong_exits_1_and_says_where(wrong: Path, golden: Path) -> None:
    done = _verify(wrong, "--golden", golden)
    assert done.code == 1
    assert "does not hold" in done.out
    assert "first bad: layer 1 mlp (right until layer 1 attention)" in done.out
    assert "gate and up swapped" in done.out


def test_limits_are_overridden_one_by_one(wrong: Path, golden: Path) -> None:
    words = (wrong, "--golden", golden, "--json")
    wide = ("--max-rms", 100, "--max-mean-kl", 100, "--max-p95-kl", 100)
    done = _verify(*words, *wide)
    assert done.code == 0 and done.json["gate"]["why"].endswith("limits as given")
    for i, name in enumerate(("rms(diff)/std(logits)", "mean KL", "p95 KL")):
        narrow = (*wide[: 2 * i + 1], 1e-9, *wide[2 * i + 2 :])
        done = _verify(*words, *narrow)
        assert done.code == 1
        assert [c["name"] for c in done.json["checks"] if not c["holds"]] == [name]


def test_a_gate_by_name(model: Path, golden: Path) -> None:
    done = _verify(model, "--golden", golden, "--dtype", "bf16", "--json")
    assert done.code == 0 and done.json["gate"]["name"] == "bf16"
    done = _verify(model, "--golden", golden, "--dtype", "bf16", "--gate", "fp32")
    assert done.code == 1


def test_a_cast_is_judged_as_one(model: Path, tmp_path: Path) -> None:
    assert call("convert", model, tmp_path / "o", "--to", "hf", "--dtype", "fp16", "-q").code == 0
    done = call("golden", "create", tmp_path / "o", "-o", tmp_path / "g", *FAST)
    assert done.code == 0
    done = _verify(model, "--golden", tmp_path / "g", "--json")
    assert done.json["gate"]["name"] == "cast"


def test_another_vocabulary_fails_without_a_run(golden: Path, tmp_path: Path) -> None:
    other = write(Sharp("o", layers=1, context=64, scaling=None), tmp_path / "o")
    junit = tmp_path / "j.xml"
    page = tmp_path / "p.html"
    words = ("--golden", golden, "--json", "--junit", junit, "--report", page)
    done = _verify(other, *words)
    assert done.code == 1
    assert done.json["environment"]["runs"] == [] and done.json["overall"] is None
    assert "the vocabulary has 160 rows" in done.json["problems"][0]
    assert check("verify", done.json) == []
    assert ET.parse(junit).find(".//failure") is not None
    assert "the vocabulary has 160 rows" in page.read_text()
    assert _verify(other, "--golden", golden).code == 1


def test_against_an_equal_checkpoint_nothing_runs(model: Path, tmp_path: Path) -> None:
    assert call("convert", model, tmp_path / "o", "--to", "meta", "-q").code == 0
    done = _verify(tmp_path / "o", "--against", model, "--json")
    assert done.code == 0 and done.json["identical"]
    assert done.json["environment"]["runs"] == []
    assert "nothing to run" in _verify(tmp_path / "o", "--against", model).out


def test_against_another_checkpoint(model: Path, wrong: Path) -> None:
    done = _verify(wrong, "--against", model, "--json")
    assert done.code == 1 and not done.json["identical"]
    assert done.json["fault"]["point"] == "layer 1 mlp"
    assert done.json["reference"]["kind"] == "checkpoint"
    assert len(done.json["environment"]["runs"]) == 2


def test_the_same_tensors_with_other_settings_are_run(model: Path, tmp_path: Path) -> None:
    """The fingerprint does not know of rope theta."""
    shutil.copytree(model, tmp_path / "o")
    edit_json(tmp_path / "o" / "config.json", rope_theta=10000.0)
    done = _verify(tmp_path / "o", "--against", model, "--json")
    assert done.code == 1 and not done.json["identical"]
    assert done.json["differences"] == ["rope_theta: 10000, the reference has 500000"]


def test_prompts_of_ones_own(model: Path, wrong: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        '{"text": "Hello there"}\n\n{"name": "far", "ids": [1, 2], "positions": [0, 9]}'
    )
    done = _verify(wrong, "--against", model, "--prompts", prompts, "--json")
    assert [p["name"] for p in done.json["prompts"]] == ["line-1", "far"]
    assert done.json["prompts"][1]["at"] == [0, 9]
    out = tmp_path / "g"
    made = call("golden", "create", model, "-o", out, "--prompts", prompts, "--json", *FAST)
    assert [p["last"] for p in made.json["prompts"]][1] == 9


# --- perplexity -----------------------------------------------------------------------------------


def _by_hand(model: Path, text: str) -> float:
    """What transformers and sentencepiece say."""
    import sentencepiece
    from transformers import AutoModelForCausalLM

    processor = sentencepiece.SentencePieceProcessor(str(model / "tokenizer.model"))
    ids = processor.encode(text)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total = 0.0
    for start in range(0, len(ids), 255):
        window = [1, *ids[start : start + 255]]
        with torch.no_grad():
            logits = loaded(torch.tensor([window])).logits[0].double()
        found = logits.log_softmax(1)[range(len(window) - 1), window[1:]]
        total -= float(found.sum())
    return float(torch.tensor(total / len(ids)).exp())


def test_perplexity_is_that_of_transformers(model: Path, tmp_path: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 30
    (tmp_path / "t.txt").write_text(text)
    done = _verify(model, "--text", tmp_path / "t.txt", "--json")
    assert done.code == 0, done.out
    assert done.json["perplexity"]["perplexity"] == pytest.approx(_by_hand(model, text), rel=1e-4)
    assert check("verify", done.json) == []
    assert "perplexity " in _verify(model, "--text", tmp_path / "t.txt").out
    found = done.json["perplexity"]["perplexity"]
    words = (model, "--text", tmp_path / "t.txt", "--max-perplexity")
    assert _verify(*words, found * 1.01).code == 0
    assert _verify(*words, found * 0.99).code == 1
    part = _verify(*words[:3], "--text-tokens", 100, "--json").json["perplexity"]
    assert part["tokens"] == 100 and part["left_out"] == done.json["perplexity"]["tokens"] - 100


def test_golden_and_text_share_a_pass(
    model: Path, wrong: Path, golden: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("Hello there, this is a text.")
    done = _verify(model, "--golden", golden, "--text", tmp_path / "t.txt", "--json")
    assert done.code == 0
    assert len(done.json["environment"]["runs"]) == 1
    assert done.json["perplexity"]["tokens"] > 5 and done.json["overall"]["rms"] == 0
    done = _verify(wrong, "--against", model, "--text", tmp_path / "t.txt", "--json")
    a, b = done.json["perplexity"], done.json["perplexity_of_other"]
    assert a["tokens"] == b["tokens"] and a["loss"] != b["loss"]
    assert check("verify", done.json) == []


def test_a_text_needs_a_tokenizer(model: Path, golden: Path, tmp_path: Path) -> None:
    bare = write(SMALL, tmp_path / "bare")
    (tmp_path / "t.txt").write_text("Hello")
    assert _verify(bare, "--text", tmp_path / "t.txt").code == 2
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    assert _verify(model, "--text", tmp_path / "b.txt").code == 3
    (tmp_path / "e.txt").write_text("")
    assert _verify(model, "--text", tmp_path / "e.txt").code == 3


# --- reports --------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """What a page would load, run or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action") and value != "data:,":
                self.fetched.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), name

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page(path: Path) -> tuple[_Page, str]:
    page, text = _Page(), path.read_text()
    page.feed(text)
    assert page.open == [], "every element is closed"
    return page, text


@pytest.fixture(scope="module")
def reports(
    wrong: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, Path]:
    folder = tmp_path_factory.mktemp("reports")
    html, xml = folder / "r.html", folder / "r.xml"
    done = _verify(wrong, "--golden", golden, "--json", "--report", html, "--junit", xml)
    assert done.code == 1
    return done.json, html, xml


def test_reports_obey_their_schema(
    reports: tuple[dict[str, Any], Path, Path], model: Path, golden: Path
) -> None:
    assert check("verify", reports[0]) == []
    assert check("verify", _verify(model, "--golden", golden, "--json").json) == []
    assert check("golden-inspect", call("golden", "inspect", golden, "--json").json) == []


def test_the_schema_has_teeth(reports: tuple[dict[str, Any], Path, Path]) -> None:
    report = reports[0]
    for key in report:
        assert check("verify", {k: v for k, v in report.items() if k != key}), key
        assert check("verify", report | {key: {"no": ["such"]}}), key
    assert check("verify", report | {"unheard": 1})
    for key in ("checks", "prompts", "points"):
        wrong = [report[key][0] | {"unheard": 1}, *report[key][1:]]
        assert check("verify", report | {key: wrong}), key


def test_the_page_is_one_file_without_scripts(
    reports: tuple[dict[str, Any], Path, Path],
) -> None:
    page, text = _page(reports[1])
    assert page.fetched == [] and "script" not in page.tags and "iframe" not in page.tags
    assert not re.search(r"https?:|//|url\(|@import|@font-face", text)
    assert page.tags.count("svg") == 4
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    for word in ("does not hold", "layer 1 mlp", "gate and up swapped", "seeded-64"):
        assert word in text


def test_the_page_of_what_holds(model: Path, golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert _verify(model, "--golden", golden, "--report", out, "-q").code == 0
    _, text = _page(out)
    assert "✓ holds" in text and "Where it goes wrong" not in text


def test_junit_has_a_test_for_every_check(reports: tuple[dict[str, Any], Path, Path]) -> None:
    suite = ET.parse(reports[2]).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("4", "3")
    failures = suite.findall("testcase/failure")
    assert len(failures) == 3 and "layer 1 mlp" in (failures[0].text or "")


def test_junit_of_what_holds(model: Path, golden: Path, tmp_path: Path) -> None:
    for words in (("--golden", golden), ("--against", model)):
        assert _verify(model, *words, "--junit", tmp_path / "j.xml", "-q").code == 0
        suite = ET.parse(tmp_path / "j.xml").getroot().find("testsuite")
        assert suite is not None and suite.get("failures") == "0"
        assert len(suite.findall("testcase")) == int(suite.get("tests", 0)) > 0


EVIL = "<script>alert(1)</script>\x1b[31m\u202e::error::"


def test_names_from_files_are_harmless(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(json.dumps({"name": EVIL, "ids": [1, 2, 3]}))
    out = tmp_path / "g"
    done = call("golden", "create", model, "-o", out, "--prompts", prompts, *FAST)
    assert done.code == 0
    html, xml = tmp_path / "r.html", tmp_path / "r.xml"
    shown = _verify(model, "--golden", out, "--report", html, "--junit", xml)
    assert shown.code == 0
    page, text = _page(html)
    assert "script" not in page.tags
    ET.parse(xml)
    for words in (done.out, shown.out, call("golden", "inspect", out).out, text, xml.read_text()):
        for character in ("\x1b", "\u202e", "::error::"):
            assert character not in words


def test_reports_replace_older_ones_and_nothing_else(
    model: Path, golden: Path, tmp_path: Path
) -> None:
    words = (model, "--golden", golden, "-q")
    page = tmp_path / "r.html"
    page.write_text("old")
    assert _verify(*words, "--report", page).code == 0
    assert "holds" in page.read_text() and leftovers(page) == ["r.html"]
    precious = tmp_path / "precious.py"
    precious.write_text("mine")
    assert _verify(*words, "--report", precious).code == 5
    assert precious.read_text() == "mine"
    before = tree(model)
    assert _verify(*words, "--report", model / "r.html").code == 2
    assert _verify(*words, "--junit", golden).code == 2
    assert tree(model) == before
    assert _verify(*words, "--report", tmp_path / "no" / "r.html").code == 2
    assert _verify(*words, "--report", page, "--junit", page).code == 2
    (tmp_path / "d.html").mkdir()
    assert _verify(*words, "--report", tmp_path / "d.html").code == 5


def test_quiet_is_silent(model: Path, golden: Path) -> None:
    done = _verify(model, "--golden", golden, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


# --- what is refused ------------------------------------------------------------------------------


def test_wrong_usage(model: Path, golden: Path) -> None:
    for words in (
        (),
        ("--golden", golden, "--against", model),
        ("--golden", golden, "--prompts", golden),
        ("--golden", golden, "--gate", "lax"),
        ("--golden", golden, "--max-rms", -1),
        ("--golden", golden, "--dtype", "int8"),
        ("--golden", golden, "--device", "tpu"),
    ):
        assert call("verify", model, *words).code == 2, words


def test_every_gate_can_be_asked_for() -> None:
    """The command line names them itself, so that --help loads nothing."""
    assert tuple(GATES) == command._GATES


def test_bad_input(model: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"nothing")
    for words in (
        (tmp_path / "none", "--golden", golden),
        (model, "--golden", tmp_path / "none"),
        (model, "--golden", tmp_path / "g"),
        (model, "--golden", model / "model.safetensors"),
        (model, "--against", tmp_path / "none"),
    ):
        done = _verify(*words, "--json")
        assert done.code == 3, words
        assert check("error", done.json) == []


def test_create_refuses_what_is_there(model: Path, golden: Path, tmp_path: Path) -> None:
    before = golden.read_bytes()
    assert call("golden", "create", model, "-o", golden, *FAST).code == 5
    assert golden.read_bytes() == before
    assert call("golden", "create", model, "-o", tmp_path / "no" / "g", *FAST).code == 2
    done = call("golden", "create", model, "-o", golden, "--force", "-q", *FAST)
    assert (done.code, done.out) == (0, "")
    assert golden.read_bytes() == before, "the same model, the same bytes"


def test_noise_is_measured_against_a_wider_type(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "g"
    done = call("golden", "create", model, "-o", out, "--noise", "--json", *FAST)
    noise = done.json["noise"]
    assert noise["wider"] == "float64" and 1e-8 < noise["rms"] < 2e-4
    words = (model, "-o", tmp_path / "h", "--noise", "--dtype", "fp64")
    assert call("golden", "create", *words, *FAST).code == 2
    done = call(
        "golden",
        "create",
        model,
        "-o",
        tmp_path / "b",
        "--noise",
        "--dtype",
        "bf16",
        "--json",
        *FAST,
    )
    assert done.json["noise"]["wider"] == "float32" and done.json["noise"]["rms"] > 1e-3


def test_inspect_does_not_import_torch(golden: Path) -> None:
    script = (
        "import sys; from llamatools.cli import main\n"
        f"main.cli(['golden', 'inspect', {str(golden)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
