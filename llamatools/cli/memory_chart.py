"""`inspect --kv-memory --plot`: memory against context as SVG or PNG, drawn by matplotlib.

Figures are drawn by the backends' own classes, with matplotlib's settings as they come and none of
the user's: no window, nothing kept, and the same bytes for the same answer.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import floor, log2
from pathlib import PurePath
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from llamatools.cli.chart_labels import APART, BESIDE, SIZE, label
from llamatools.cli.render_memory import in_format
from llamatools.memory.curve import Curve, Mark, curve
from llamatools.memory.report import Answer
from llamatools.memory.units import about_tokens, gib, tokens
from llamatools.text import safe

GIB = 1 << 30
PAPER, INK, FAINT, GRID = "#ffffff", "#1b1f24", "#57606a", "#d9dee3"
WEIGHTS, REST, KV = "#0072b2", "#e69f00", "#56b4e9"
"""Of Okabe and Ito's palette, which eyes of every kind tell apart."""
NIGHT = {
    PAPER: "#0d1117", INK: "#e6edf3", FAINT: "#9aa4ae", GRID: "#30363d",
    WEIGHTS: "#005a8d", REST: "#b87d00", KV: "#3a8fc4",
}  # fmt: skip
"""What they become where the reader's screen is dark (SVG alone)."""

_WIDTH, _LEFT, _RIGHT = 10.0, 0.9, 2.9
_TOP, _BOTTOM, _PLOT = 1.35, 0.65, 3.9
_MARGIN, _LEGEND = 0.25, 0.3
"""Inches: the whole, around and inside the axes; beside words, and from legend to axes."""
_MOST_LABELS = 48
_TITLE = 72
"""Letters of the title, about."""
_PLAIN = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""No metadata: neither when nor by which version a file was drawn."""
_NEAR = 1.35
"""GPUs beyond so many times the highest point are named above the plot's top."""


def chart(answer: Answer, form: str) -> bytes:
    """The file's bytes; `form` is "svg" or "png"."""
    with _own_settings():
        figure = _figure(answer)
        out = io.BytesIO()
        if form == "svg":
            FigureCanvasSVG(figure)
            figure.savefig(out, format="svg", metadata=_PLAIN)
            return _for_dark_screens(out.getvalue())
        FigureCanvasAgg(figure)
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
        return out.getvalue()


@contextmanager
def _own_settings() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks: boxes in the PNG
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "svg.fonttype": "none",
            "svg.hashsalt": "llamatools",
            "text.parse_math": False,  # names may hold dollar signs
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "font.size": 10,
        })  # fmt: skip
        yield


def _figure(answer: Answer) -> Figure:
    c = curve(answer)
    shown = c.marks[:_MOST_LABELS]
    plot = max(_PLOT, APART * (len(shown) + 2))
    height = _TOP + plot + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), facecolor=PAPER)
    right = _RIGHT if shown else 0.4
    axes = figure.add_axes((
        _LEFT / _WIDTH, _BOTTOM / height, (_WIDTH - _LEFT - right) / _WIDTH, plot / height,
    ), facecolor="none")  # fmt: skip
    highest = max(p.total for p in c.points)
    near = [m for m in shown if m.usable <= highest * _NEAR]
    top = max([highest, *(m.usable for m in near)]) * 1.04
    _areas(axes, c)
    _axes(axes, answer, c, top)
    _native(axes, answer, c)
    _lines(axes, c, near)
    label(axes, shown, top, plot, INK, FAINT)
    _words(figure, answer, height)
    _legend(figure, c, height)
    if shown:
        some = f"the {len(shown)} smallest: " if len(shown) < len(c.marks) else ""
        axes.annotate(
            f"{some}usable, longest context", (BESIDE, 1 + _LEGEND / plot),
            xycoords="axes fraction", va="center", fontsize=SIZE, color=FAINT,
        )  # fmt: skip
    return figure


def _areas(axes: Axes, c: Curve) -> None:
    xs = [p.context for p in c.points]
    lower = [0.0] * len(xs)
    for colour, sizes in (
        (WEIGHTS, [p.weights for p in c.points]),
        (REST, [p.rest for p in c.points]),
        (KV, [p.kv for p in c.points]),
    ):
        upper = [low + size / GIB for low, size in zip(lower, sizes, strict=True)]
        axes.fill_between(xs, lower, upper, facecolor=colour, linewidth=0)
        lower = upper
    axes.plot(xs, lower, color=INK, linewidth=1.2)


def _axes(axes: Axes, answer: Answer, c: Curve, top: float) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(c.first, c.last)
    axes.set_ylim(0, top / GIB)
    ticks = _powers(c.first, c.last)
    axes.set_xticks(ticks, [tokens(n) for n in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="y", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(FAINT)
    batch = _batch(answer)
    each = f" of each of {batch:,} sequences" if batch > 1 else ""
    axes.set_xlabel(f"context{each} (tokens)")
    axes.set_ylabel("one GPU's memory (GiB)")


def _powers(first: int, last: int) -> list[int]:
    """A dozen powers of two at most; what is between them, where they are few."""
    found = [1 << i for i in range(floor(log2(last)) + 1) if first <= 1 << i]
    if len(found) < 4:
        found = sorted(
            {n for p in found for n in (p * 3 // 4, p, p * 3 // 2) if first <= n <= last}
        )
    return found[:: -(-len(found) // 12)]


def _native(axes: Axes, answer: Answer, c: Curve) -> None:
    """Where the context ends that the model was made for."""
    report: dict[str, Any] = answer.report
    native = report["architecture"]["context"]
    if native and c.first < native < c.last:
        axes.axvline(native, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        right = native * native > c.first * c.last  # of the middle
        axes.annotate(
            f" made for {tokens(native)} ", (native, 1), xycoords=("data", "axes fraction"),
            ha="right" if right else "left", va="top", fontsize=SIZE, color=FAINT,
        )  # fmt: skip


def _lines(axes: Axes, c: Curve, near: Sequence[Mark]) -> None:
    for m in near:
        at = m.usable / GIB
        axes.axhline(at, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        if c.first <= m.longest <= c.last:
            axes.plot([m.longest], [at], "o", color=INK, markeredgecolor=PAPER, markersize=7,
                      clip_on=False, zorder=5)  # fmt: skip


def _batch(answer: Answer) -> int:
    report: dict[str, Any] = answer.report
    return int(report["contexts"][0]["batch"])


def _words(figure: Figure, answer: Answer, height: float) -> None:
    """Title, and what was asked."""
    report: dict[str, Any] = answer.report
    source, kv, p = report["source"], report["kv"], report["parallel"]
    title = safe(report["model"]["title"])
    if source["kind"] != "name":
        name = source["name"] if source["kind"] == "repository" else PurePath(source["name"]).name
        title += f": {_short(safe(name, 255), _TITLE - len(title))}" if name else ""
    x = _MARGIN / _WIDTH
    figure.text(x, 1 - 0.36 / height, title, fontsize=13, fontweight="bold")
    asked = [
        f"weights {in_format(report['weights']['dtype'])}",
        f"KV cache in {kv['dtype']}",
        *([f"engine {kv['engine']}"] if kv["engine"] != "none" else []),
        f"tp {p['tp']} × pp {p['pp']}",
        f"batch {_batch(answer):,}",
    ]
    figure.text(x, 1 - 0.64 / height, ", ".join(asked), color=FAINT)


def _legend(figure: Figure, c: Curve, height: float) -> None:
    end = c.points[-1]
    at = about_tokens(end.context)
    parts = (
        (WEIGHTS, f"weights {gib(end.weights)}"),
        (REST, f"the rest (estimate) ~{gib(end.rest)} at {at}"),
        (KV, f"KV cache {gib(end.kv)} at {at}"),
    )
    figure.legend(
        [Patch(color=colour) for colour, _ in parts], [what for _, what in parts],
        loc="center left", bbox_to_anchor=(_MARGIN / _WIDTH, 1 - (_TOP - _LEGEND) / height),
        ncols=3, frameon=False, borderpad=0, borderaxespad=0, fontsize=SIZE + 0.5,
        handlelength=1, handleheight=0.9, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def _short(name: str, most: int) -> str:
    """Its beginning and end, which tell names apart."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) :]}"


def _for_dark_screens(svg: bytes) -> bytes:
    rules = "".join(
        f'[style*="{kind}: {day}"]{{{kind}:{night}!important}}'
        for day, night in NIGHT.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>\n"
    head, end, rest = svg.partition(b" <defs>\n")
    return head + b" " + style.encode() + end + rest
