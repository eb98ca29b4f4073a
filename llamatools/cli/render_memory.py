"""`inspect --kv-memory` as a person reads it on a terminal. Estimates carry a tilde."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llamatools.cli.memory_plot import ASCII, UNICODE, Line, plot
from llamatools.cli.narrow import NO_BREAK, Column, fitted, unbroken
from llamatools.cli.render import make_console, pairs
from llamatools.memory.curve import point
from llamatools.memory.report import Answer
from llamatools.memory.units import about_tokens, gib, tokens
from llamatools.text import count, safe

Report = dict[str, Any]

STYLES = {"fits": "green", "tight": "yellow", "no": "red"}
_LABELS = 12
"""Cells before the facts, which are beside their labels."""
_WIDEST_PLOT = 100


def show_memory(answer: Answer) -> None:
    console = make_console()
    report: Report = answer.report
    console.print(f"[bold]{escape(safe(report['model']['title']))}[/]")
    console.print(_facts(report, console.width - _LABELS))
    console.print()
    console.print(_contexts(report, console.width), crop=False)
    if report["gpus"]:
        console.print()
        console.print(_gpus(report, console.width), crop=False)
    console.print()
    _plot(console, answer)
    _limit(console, report["limit"])
    for style, label in (("yellow", "warning"), ("dim", "note")):
        for remark in report[f"{label}s"]:
            _line(console, f"[{style}]{label}:[/]", safe(remark, 400))


def _line(console: Console, label: str, text: str) -> None:
    """`label` is of our own, with markup."""
    indent = len(Text.from_markup(label).plain) + 1
    console.print(f"{label} {escape(unbroken(text, console.width, indent))}")


def _amount(figure: Report) -> str:
    """Bytes; an estimate carries a tilde."""
    return ("~" if figure["kind"] == "estimate" else "") + gib(figure["value"])


def _facts(report: Report, width: int) -> Table:
    table = pairs()

    def row(label: str, text: str) -> None:
        table.add_row(label, escape(unbroken(safe(text, 400), width)))

    p, w, kv, a = report["parameters"], report["weights"], report["kv"], report["architecture"]
    unique, stored = p["unique"]["value"], p["stored"]
    about = "~" if p["unique"]["kind"] == "estimate" else ""
    more = f" ({stored['value']:,} stored)" if stored and stored["value"] != unique else ""
    row("parameters", f"{about}{unique:,}{more}")
    groups = (f"{safe(g)} {about}{n['value']:,}" for g, n in p["by_group"].items())
    whole = ", ".join(g.replace(" ", NO_BREAK) for g in groups)
    table.add_row("by group", escape(unbroken(whole, width)))
    row("weights", _weights(w))
    row("attention", _attention(a))
    row("kv cache", _cache(kv))
    if report["parallel"]["gpus"] > 1:
        row("parallel", _parallel(report["parallel"]))
    return table


def in_format(name: str) -> str:
    return name if name == "as stored" else f"in {name}"


def _weights(w: Report) -> str:
    text = f"{_amount(w['loaded'])} {in_format(w['dtype'])}"
    stored = w["stored"]
    if stored is None:
        return text
    dtypes = ", ".join(f"{safe(n)} {_amount(d['bytes'])}" for n, d in stored["by_dtype"].items())
    return f"{text}; {count(stored['files'], 'file')} with {dtypes}"


def _attention(a: Report) -> str:
    text = f"{a['attention']}: {count(a['n_heads'], 'head')} of {a['head_dim']}, " \
        f"{a['n_kv_heads']} for keys and values, {count(a['n_layers'], 'layer')}"  # fmt: skip
    if a["cross_attention_layers"]:
        text += f" ({a['cross_attention_layers']} look at images)"
    if a["windowed_layers"]:
        text += f" ({a['windowed_layers']} in chunks of {a['window']:,})"
    if a["experts"]:
        text += f"; {a['experts']} experts in {count(a['expert_layers'], 'layer')}"
    return text


def _cache(kv: Report) -> str:
    text = f"{_amount(kv['per_token'])} a token in {kv['dtype']}"
    if kv["heads_per_kv_head"] > 1:
        whole = _amount(kv["per_token_as_mha"])
        text += f", 1/{kv['heads_per_kv_head']} of the {whole} with MHA"
    if kv["per_token_beyond_window"] != kv["per_token"]:
        text += f"; {_amount(kv['per_token_beyond_window'])} once chunks are full"
    if kv["per_image"]:
        text += f"; {_amount(kv['per_image'])} an image"
    if kv["block"] > 1:
        text += f"; {kv['engine']}: in blocks of {kv['block']} tokens"
    return text


def _parallel(p: Report) -> str:
    heads = count(p["kv_heads_per_gpu"], "key-value head")
    text = f"tp {p['tp']} x pp {p['pp']} = {p['gpus']} GPUs; {heads} each"
    if len(p["stages"]) > 1:
        layers = sorted({s["layers"] for s in p["stages"]})
        text += f"; {' or '.join(map(str, layers))} layers a stage"
    return text


def _contexts(report: Report, width: int) -> Table:
    """One row a context: the cache, and the fullest GPU."""
    several = report["parallel"]["gpus"] > 1
    rows = report["contexts"]
    batch = rows[0]["batch"]
    each = [row["per_gpu"] for row in rows]
    rest = [sum(g[k]["value"] for k in ("rope", "activations", "runtime")) for g in each]
    everywhere = [Column("all KV", [_amount(r["kv"]) for r in rows], goes=2)] if several else []
    return fitted([
        Column("context" if batch == 1 else f"context x {batch}",
               [tokens(row["context"]) for row in rows]),
        *everywhere,
        Column("KV cache", [_amount(g["kv"]) for g in each], goes=1),
        Column("weights", [_amount(g["weights"]) for g in each], goes=3),
        Column("the rest", [f"~{gib(n)}" for n in rest], goes=4),
        Column("one GPU" if several else "in all",
               [f"[bold]{_amount(g['total'])}[/]" for g in each]),
        Column("fits on", [r["smallest_gpu"] or "none that is known" for r in rows], right=False),
    ], width)  # fmt: skip


def _gpus(report: Report, width: int) -> Table:
    """One row a GPU: a verdict for each context there is room for, and the most it takes.

    Of the contexts between the first and the last, the longest go first.
    """
    rows = report["gpus"]
    asked = [row["context"] for row in report["contexts"]]
    verdicts = [{v["context"]: v["verdict"] for v in gpu["verdicts"]} for gpu in rows]
    goes = [1 if c == asked[-1] else 2 if i == 0 else 4 + i for i, c in enumerate(asked)]
    longest = [gpu["largest_context"]["value"] for gpu in rows]
    batches = [gpu["largest_batch"][-1]["batch"]["value"] for gpu in rows]
    return fitted([
        Column("GPU", [escape(safe(gpu["key"])) for gpu in rows], right=False),
        Column("usable", [_amount(gpu["usable"]) for gpu in rows]),
        *(Column(tokens(c), [f"[{STYLES[v[c]]}]{v[c]}[/]" for v in verdicts], right=False, goes=n)
          for c, n in zip(asked, goes, strict=True)),
        Column("longest", [f"~{about_tokens(n)}" if n else "none" for n in longest]),
        Column(f"batch@{tokens(asked[-1])}", [f"~{n:,}" if n else "none" for n in batches],
               goes=3),
        Column("GPUs tp x pp", [_fewest(gpu["fewest"]) for gpu in rows], right=False, goes=4),
    ], width)  # fmt: skip


def _fewest(f: Report | None) -> str:
    if f is None:
        return "none"
    gpus = f["gpus"]["value"]
    return f"~{gpus} ({f['tp']} x {f['pp']})" if gpus > 1 else f"~{gpus}"


def _plot(console: Console, answer: Answer) -> None:
    """Against contexts up to the longest one asked for."""
    report: Report = answer.report
    last = report["contexts"][-1]
    lines = [
        Line(safe(g["key"]), g["usable"]["value"], STYLES[g["verdicts"][-1]["verdict"]])
        for g in report["gpus"]
    ]
    plain = not console.encoding.lower().startswith("utf")
    width = min(console.width, _WIDEST_PLOT)
    for row in plot(
        partial(point, answer), last["context"], lines, width, ASCII if plain else UNICODE
    ):
        console.print(row, soft_wrap=True)


def _limit(console: Console, limit: Report | None) -> None:
    if limit is None:
        return
    needed, allowed = _amount(limit["needed"]), gib(limit["bytes"])
    label = "[red]over the limit:[/]" if limit["over"] else "[green]within the limit:[/]"
    _line(console, label, f"{needed} on one GPU, {allowed} allowed")
