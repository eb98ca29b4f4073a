"""`inspect --kv-memory` as a person reads it on a terminal. Estimates carry a tilde."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatools.cli.memory_plot import ASCII, UNICODE, Line, plot
from llamatools.cli.render import label_row, make_console, pairs
from llamatools.memory.curve import point
from llamatools.memory.report import Answer
from llamatools.memory.units import about_tokens, gib, tokens
from llamatools.text import count, safe

Report = dict[str, Any]

STYLES = {"fits": "green", "tight": "yellow", "no": "red"}
_OTHER_COLUMNS = 59
"""Cells of the table of GPUs beside its verdicts, of which each takes 7."""
_WIDEST_PLOT = 100


def show_memory(answer: Answer) -> None:
    console = make_console()
    report: Report = answer.report
    console.print(f"[bold]{escape(safe(report['model']['title']))}[/]")
    console.print(_facts(report))
    console.print()
    console.print(_contexts(report))
    if report["gpus"]:
        console.print()
        console.print(_gpus(report, max(2, (console.width - _OTHER_COLUMNS) // 7)))
    console.print()
    _plot(console, answer)
    _limit(console, report["limit"])
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(safe(warning, 400))}")
    for note in report["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")


def _amount(figure: Report) -> str:
    """Bytes; an estimate carries a tilde."""
    return ("~" if figure["kind"] == "estimate" else "") + gib(figure["value"])


def _facts(report: Report) -> Table:
    table = pairs()
    p, w, kv, a = report["parameters"], report["weights"], report["kv"], report["architecture"]
    unique, stored = p["unique"]["value"], p["stored"]
    more = f" ({stored['value']:,} stored)" if stored and stored["value"] != unique else ""
    label_row(table, "parameters", f"{unique:,}{more}")
    groups = (f"{g} {n['value']:,}" for g, n in p["by_group"].items())
    label_row(table, "by group", ", ".join(groups))
    label_row(table, "weights", _weights(w))
    label_row(table, "attention", _attention(a))
    label_row(table, "kv cache", _cache(kv))
    if report["parallel"]["gpus"] > 1:
        label_row(table, "parallel", _parallel(report["parallel"]))
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


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="dim")


def _contexts(report: Report) -> Table:
    """One row a context: the cache, and the fullest GPU."""
    several = report["parallel"]["gpus"] > 1
    batch = report["contexts"][0]["batch"]
    table = _table()
    table.add_column("context" if batch == 1 else f"context x {batch}", justify="right")
    if several:
        table.add_column("all KV", justify="right")
    for heading in ("KV cache", "weights", "the rest", "one GPU" if several else "in all"):
        table.add_column(heading, justify="right")
    table.add_column("fits on", no_wrap=True)
    for row in report["contexts"]:
        g = row["per_gpu"]
        rest = sum(g[k]["value"] for k in ("rope", "activations", "runtime"))
        cells = [tokens(row["context"])]
        cells += [_amount(row["kv"])] if several else []
        cells += [_amount(g["kv"]), _amount(g["weights"]), f"~{gib(rest)}"]
        smallest = row["smallest_gpu"] or "none that is known"
        table.add_row(*cells, f"[bold]{_amount(g['total'])}[/]", smallest)
    return table


def _gpus(report: Report, verdicts_at_most: int) -> Table:
    """One row a GPU: a verdict for each context there is room for, and the most it takes."""
    asked = [row["context"] for row in report["contexts"]]
    shown = sorted({*asked[: verdicts_at_most - 1], asked[-1]})
    table = _table()
    table.add_column("GPU", no_wrap=True)
    table.add_column("usable", justify="right")
    for context in shown:
        table.add_column(tokens(context))
    table.add_column("longest", justify="right")
    table.add_column(f"batch@{tokens(asked[-1])}", justify="right")
    table.add_column("GPUs tp x pp")
    for gpu in report["gpus"]:
        verdicts = {v["context"]: v["verdict"] for v in gpu["verdicts"]}
        words = (f"[{STYLES[verdicts[c]]}]{verdicts[c]}[/]" for c in shown)
        longest, batch = gpu["largest_context"]["value"], gpu["largest_batch"][-1]["batch"]["value"]
        table.add_row(
            escape(safe(gpu["key"])),
            _amount(gpu["usable"]),
            *words,
            f"~{about_tokens(longest)}" if longest else "none",
            f"~{batch:,}" if batch else "none",
            _fewest(gpu["fewest"]),
        )
    return table


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
    if limit["over"]:
        console.print(f"[red]over the limit:[/] {needed} on one GPU, {allowed} allowed")
    else:
        console.print(f"[green]within the limit:[/] {needed} on one GPU, {allowed} allowed")
