"""`--plot`: what is drawn is what the report says, the same bytes each time, or nothing at all."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import call, leftovers
from support.tiny import Tiny
from support.tiny_files import write_hf

from llamatools.cli import chart_file
from llamatools.cli.chart_labels import spread
from llamatools.cli.memory_chart import FAINT, INK, NIGHT, PAPER, chart
from llamatools.errors import IOFailed
from llamatools.memory.curve import curve
from llamatools.memory.engines import ENGINES
from llamatools.memory.gpus import find, known
from llamatools.memory.question import Question
from llamatools.memory.report import Answer, answer
from llamatools.memory.source import read_subject

SVG = "{http://www.w3.org/2000/svg}"
WORDS = ("inspect", "llama-3.1-8b", "--kv-memory", "--gpu", "h100", "--gpu", "4090")


def _answer(source: str = "llama-3.1-8b", gpus: tuple[str, ...] = (), **asked: Any) -> Answer:
    return answer(read_subject(source), Question(gpus=find(gpus), **asked))


def _texts(svg: bytes) -> dict[str, tuple[float, float]]:
    """Every text of the picture, and where it stands."""
    out = {}
    for t in ET.fromstring(svg).iter(f"{SVG}text"):
        at = re.search(r"(?:translate\(|rotate\(\S+ )(-?[\d.]+) (-?[\d.]+)", t.get("transform", ""))
        assert at, t.attrib
        out[t.text or ""] = (float(at[1]), float(at[2]))
    return out


def test_the_curve_is_the_answer() -> None:
    asked = _answer(gpus=("h100", "4090", "t4"), contexts=(4096, 131072), batch=2, tp=2,
                    engine=ENGINES["vllm"])  # fmt: skip
    c = curve(asked)
    report: Any = asked.report
    assert (c.first, c.last) == (2048, report["gpus"][0]["largest_context"]["value"])
    assert [p.context for p in c.points] == sorted({p.context for p in c.points})
    for p in c.points:
        need = asked.deployment.need(p.context, 2)
        assert (p.weights, p.kv, p.total) == (need.weights, need.kv, need.total)
    assert [m.name for m in c.marks] == ["t4-16gb", "rtx4090-24gb", "h100-80gb"]
    by_name = {g["key"]: g for g in report["gpus"]}
    for m in c.marks:
        assert m.longest == by_name[m.name]["largest_context"]["value"]
        assert asked.deployment.need(m.longest, 2).total <= m.usable
        assert asked.deployment.need(m.longest + 1, 2).total > m.usable


@pytest.mark.parametrize("contexts", [(1,), (7,), (1 << 30,), (131072, 131073)])
def test_every_context_has_a_curve(contexts: tuple[int, ...]) -> None:
    asked = _answer("llama-4-scout", ("h100",), contexts=contexts)
    c = curve(asked)
    assert c.first < c.last
    assert c.first <= contexts[0] <= contexts[-1] <= max(c.last, 2)
    assert ET.fromstring(chart(asked, "svg")).tag == f"{SVG}svg"


def test_lines_and_labels_stand_where_the_axis_says() -> None:
    asked = _answer(gpus=("h100", "4090", "l40s"))
    svg = chart(asked, "svg")
    texts = _texts(svg)
    ticks = {float(t): y for t, (x, y) in texts.items() if re.fullmatch(r"\d+", t) and x < 70}
    (low, y0), *_, (high, y1) = sorted(ticks.items())
    per_gib = (y1 - y0) / (high - low)
    lines = [
        float(m[1]) for p in ET.fromstring(svg).iter(f"{SVG}path")
        if "dasharray: 4" in p.get("style", "")
        and (m := re.match(r"M \S+ (\S+)", p.get("d", "")))
    ]  # fmt: skip
    found = sorted((y - _baseline(svg)) / per_gib for y in lines)
    usable = sorted(m.usable / (1 << 30) for m in curve(asked).marks)
    assert found == pytest.approx(usable, abs=0.02)
    assert "h100-80gb 71.2 GiB, to ~428k" in texts
    assert "Llama 3.1 8B" in texts
    assert "weights in bf16, KV cache in bf16, tp 1 × pp 1, batch 1" in texts
    assert {"2k", "8k", "128k", "weights 15 GiB"} <= texts.keys()


def _baseline(svg: bytes) -> float:
    """Where the axis of contexts is: the lower edge of the axes."""
    axes = next(p for p in ET.fromstring(svg).iter(f"{SVG}g") if p.get("id") == "axes_1")
    frame = next(axes.iter(f"{SVG}path")).get("d", "")
    return max(float(y) for y in re.findall(r"[ML] \S+ (\S+)", frame))


def test_labels_never_overlap() -> None:
    for asked in (
        answer(read_subject("llama-3.1-8b"), Question(gpus=tuple(known().values()))),
        answer(read_subject("llama-3.1-405b"), Question(gpus=tuple(known().values()))),
        answer(read_subject("llama-3.2-1b"), Question(gpus=find([n << 30 for n in range(2, 90)]))),
    ):
        ys = sorted(y for t, (_, y) in _texts(chart(asked, "svg")).items() if " GiB, " in t
                    and not t.startswith("weights"))  # fmt: skip
        assert len(ys) == min(48, len(asked.report["gpus"]))  # type: ignore[arg-type]
        assert min(b - a for a, b in pairwise(ys)) > 14  # points; letters have 9


@given(st.lists(st.floats(0, 10), max_size=40), st.floats(0.01, 0.25))
def test_spread(wanted: list[float], apart: float) -> None:
    found = spread(sorted(wanted), apart, 10)
    assert len(found) == len(wanted)
    assert all(b - a > apart * 0.999 for a, b in pairwise(found))
    assert all(-1e-9 <= y <= 10 + 1e-9 for y in found)
    if all(b - a >= apart for a, b in pairwise(sorted(wanted))):
        assert found == sorted(wanted)


def test_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the process, its hashes, and the settings a user has for matplotlib."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\nbackend: TkAgg\n")
    for form in ("svg", "png"):
        made = []
        for seed, folder in (("1", tmp_path), ("2", Path(__file__).parent)):
            out = tmp_path / f"{seed}.{form}"
            env = {**os.environ, "PYTHONHASHSEED": seed, "MPLBACKEND": "TkAgg"}
            env["PYTHONPATH"] = str(Path(__file__).parents[2])
            command = [sys.executable, "-m", "llamatools", *WORDS, "--plot", str(out)]
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
            assert done.stderr == b""
            made.append(out.read_bytes())
        assert made[0] == made[1] == chart(_answer(gpus=("h100", "4090")), form)
        other = chart(_answer(gpus=("h100", "4090"), batch=2), form)
        assert other != made[0]


def test_png_is_a_picture_and_nothing_else() -> None:
    png = chart(_answer(), "png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (1500, 885)
    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_svg_asks_for_nothing() -> None:
    svg = chart(_answer(gpus=("h100",)), "svg").decode()
    assert all(ref.startswith("#") for ref in re.findall(r'href="([^"]*)"', svg))
    assert "<script" not in svg
    assert "url(" not in svg.replace("url(#", "")
    assert "<metadata>" not in svg


def _contrast(one: str, other: str) -> float:
    """WCAG 2's ratio."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lin = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_light_and_dark_screens() -> None:
    svg = chart(_answer(gpus=("h100", "t4")), "svg").decode()
    style, rest = svg.split("</style>", 1)
    used = set(re.findall(r"(?:fill|stroke): (#\w+)", rest))
    assert used == set(NIGHT)
    for day, night in NIGHT.items():
        assert f'[style*="fill: {day}"]{{fill:{night}!important}}' in style
    assert _contrast(INK, PAPER) > 7 < _contrast(NIGHT[INK], NIGHT[PAPER])
    assert _contrast(FAINT, PAPER) > 4.5 < _contrast(NIGHT[FAINT], NIGHT[PAPER])
    assert _contrast(PAPER, NIGHT[INK]) < 2  # the control: one ink for both would not do


def test_names_are_text_and_nothing_more(tmp_path: Path) -> None:
    name = "a$b^{<script>&$\x1b::中 "
    source = write_hf(Tiny(), tmp_path / name)
    out = tmp_path / "out.svg"
    done = call("inspect", source, "--kv-memory", "--plot", out)
    assert (done.code, done.err) == (0, "")
    title = next(t for t in _texts(out.read_bytes()) if "unlisted" in t)
    assert title.startswith("unlisted model in the style of Llama 3: a$b^{<script>&$\\x1b:\\:中")
    long = write_hf(Tiny(), tmp_path / ("beginning" + "x" * 200 + "end"))
    titles = [t for t in _texts(chart(_answer(str(long)), "svg")) if "beginning" in t]
    assert titles[0].endswith("xend")
    assert len(titles[0]) < 80


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.SVG"
    done = call(*WORDS, "--plot", out, "--json")
    assert done.code == 0
    assert done.json["$schema"].startswith("urn:llamatools:memory")
    first = out.read_bytes()
    assert b"<svg" in first
    assert leftovers(out) == ["out.SVG"]
    again = call(*WORDS, "--plot", out)
    assert again.code == 5
    assert "exists already" in again.err
    assert out.read_bytes() == first
    assert call(*WORDS, "--plot", out, "--force", "--batch", 2).code == 0
    assert out.read_bytes() != first
    assert leftovers(out) == ["out.SVG"]
    gate = tmp_path / "gate.png"
    assert call(*WORDS, "--plot", gate, "--fail-if-over", "1GiB").code == 1
    assert gate.exists()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("out.pdf", 2, "neither .svg nor .png"),
        ("svg", 2, "neither .svg nor .png"),
        ("nowhere/out.svg", 2, "no such folder"),
        ("folder.svg", 5, "not a plain file"),
        ("link.svg", 5, "not a plain file"),
        ("dangling.svg", 5, "not a plain file"),
        ("pipe.svg", 5, "not a plain file"),
    ],
)
def test_refusals_come_before_any_work(name: str, code: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "there.svg").write_text("mine")
    (tmp_path / "link.svg").symlink_to("there.svg")
    (tmp_path / "dangling.svg").symlink_to("elsewhere.svg")
    os.mkfifo(tmp_path / "pipe.svg")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = call("inspect", "no-such-model", "--kv-memory", "--plot", tmp_path / name, "--force")
    assert done.code == code
    assert words in done.err
    assert "no-such-model" not in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "there.svg").read_text() == "mine"


def test_what_goes_together() -> None:
    assert "--force belongs to --plot" in call(*WORDS, "--force").err
    alone = call("inspect", "llama-3.1-8b", "--plot", "x.svg")
    assert alone.code == 2
    assert "--plot belongs to --kv-memory" in alone.err


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("inspect", "no-such-model", "--kv-memory", "--plot", tmp_path / "x.svg")
    assert done.code == 2
    assert "pip install 'llamatools[plot]'" in done.err
    assert call(*WORDS).code == 0


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise IOFailed("no space")

    monkeypatch.setattr(chart_file, "write_document", full)
    done = call(*WORDS, "--plot", tmp_path / "x.svg")
    assert (done.code, done.out) == (4, "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from llamatools.cli.main import cli\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "print({'torch', 'matplotlib', 'matplotlib.pyplot'} & sys.modules.keys(), file=sys.stderr)"
    )

    def imported(*words: object) -> str:
        command = [sys.executable, "-c", script, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert imported(*WORDS).strip() == "set()"
    assert imported(*WORDS, "--plot", tmp_path / "x.png").strip() == "{'matplotlib'}"
