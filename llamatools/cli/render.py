"""Reports as a person reads them on a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatools.text import count, nbytes, safe

Report = dict[str, Any]


_UNSEEN = 200
"""Columns where nobody looks: of a file or a pipe, whose lines are not broken for a screen."""


def make_console() -> Console:
    seen = sys.stdout.isatty()
    # Both, or rich does not look at either where TERM is dumb.
    width, height = (None, None) if seen or "COLUMNS" in os.environ else (_UNSEEN, 25)
    file = sys.stdout if seen else cast("TextIO", _Trimmed(sys.stdout))
    return Console(file=file, width=width, height=height, highlight=False, emoji=False)


class _Trimmed:
    """Text without the blanks that fill up the cells of tables at the ends of lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(_BLANKS.sub("", text))

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


_BLANKS = re.compile(r" +(?=\n)")


def pairs() -> Table:
    """Labels and values, no lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def label_row(table: Table, label: str, *values: object) -> None:
    table.add_row(label, *(escape(safe(v, 400)) for v in values))


def _remarks(console: Console, report: Report) -> None:
    for conflict in report["conflicts"]:
        console.print(f"[yellow]conflict:[/] {escape(safe(conflict, 400))}")
    for note in report["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")
    if report.get("buffers_dropped"):
        dropped = count(len(report["buffers_dropped"]), "buffer")
        console.print(f"[dim]note:[/] {dropped} in the files that are no weights (rotary tables)")


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_inspection(report: Report) -> None:
    """`inspect`."""
    console = make_console()
    a, model = report["architecture"], report["model"]
    console.print(f"[bold]{escape(model['title'])}[/]")
    table = pairs()
    files = count(len(report["files"]), "file")
    size = nbytes(sum(f["bytes"] for f in report["files"]))
    label_row(table, "layout", f"{report['layout']} in {report['container']}, {files}, {size}")
    if report["shards"] > 1:
        label_row(table, "shards", f"{report['shards']} model-parallel files")
    label_row(table, "parameters", _parameters(report["parameters"]))
    label_row(table, "by group", ", ".join(_groups(report["parameters"]["by_group"])))
    dtypes = (
        f"{name} {count(d['tensors'], 'tensor')}, {nbytes(d['bytes'])}"
        for name, d in report["dtypes"].items()
    )
    label_row(table, "dtypes", "; ".join(dtypes))
    label_row(
        table,
        "shape",
        f"dim {a['dim']:,}, {count(a['n_layers'], 'layer')}, ffn {a['ffn_dim']:,}, "
        f"vocabulary {a['vocab_size']:,}{', tied' if a['tied'] else ''}",
    )
    label_row(
        table,
        "attention",
        f"{a['attention']}: {count(a['n_heads'], 'head')} of {a['head_dim']}, "
        f"{a['n_kv_heads']} for keys and values",
    )
    label_row(table, "rope", _rope(a))
    label_row(table, "norm eps", f"{a['norm_eps']:g}")
    console.print(table)
    _evidence(console, model)
    _remarks(console, report)


def _parameters(p: Report) -> str:
    text = f"{p['unique']:,}"
    return text if p["stored"] == p["unique"] else f"{text} ({p['stored']:,} stored)"


def _groups(groups: dict[str, int]) -> Iterable[str]:
    return (f"{name} {n:,}" for name, n in groups.items())


def _rope(a: Report) -> str:
    text = f"theta {a['rope_theta']:,.0f}"
    if a["rope_scaling"]:
        text += f", {a['rope_scaling']['kind']} scaling x{a['rope_scaling']['factor']:g}"
    return text + (f", context {a['context']:,}" if a["context"] else "")


def _evidence(console: Console, model: Report) -> None:
    agree = [e["what"] for e in model["evidence"] if e["agrees"]]
    reference = model["official"] or model["generation"]
    if agree:
        console.print(f"[dim]because[/] {', '.join(agree)} [dim]are those of[/] {reference}")
    for e in model["evidence"]:
        if not e["agrees"]:
            console.print(
                f"[yellow]but[/]     {e['what']} is {escape(_number(e['found']))}, "
                f"not {escape(_number(e['official']))}"
            )


def show_plan(report: Report) -> None:
    """`convert --dry-run`."""
    console = make_console()
    console.print(f"[bold]{escape(report['model']['title'])}[/] -> {escape(report['out'])}")
    files = Table(box=None, pad_edge=False, header_style="dim")
    files.add_column("file")
    files.add_column("bytes", justify="right")
    files.add_column("tensors", justify="right")
    for f in report["files"]:
        files.add_row(escape(f["name"]), f"{f['bytes']:,}", f"{f['tensors']:,}")
    for name, size in report["documents"].items():
        files.add_row(escape(name), f"{size:,}", "")
    for name in report["travelling_files"]:
        files.add_row(escape(safe(name)), "unchanged", "")
    console.print(files)
    table = pairs()
    label_row(table, "read", nbytes(report["bytes_read"]))
    label_row(table, "written", nbytes(report["bytes_written"]))
    label_row(
        table, "disk", f"{nbytes(report['disk_needed'])} needed, {nbytes(report['disk_free'])} free"
    )
    if finished := report["files_finished"]:
        text = f"an interrupted run left {finished} of {count(len(report['files']), 'file')}"
        label_row(table, "finished", text)
    label_row(
        table, "buffers", f"{nbytes(report['buffer_bytes'])} with {count(report['jobs'], 'worker')}"
    )
    changes = report["dtype_changes"]
    kinds = sorted({f"{c['before']} to {c['after']}" for c in changes})
    label_row(
        table,
        "dtypes",
        f"{count(len(changes), 'tensor')} cast ({', '.join(kinds)})" if changes else "all kept",
    )
    _verification(table, report["verification"])
    console.print(table)
    _tokenizer(console, report["tokenizer"])
    _vocabulary(console, report["vocabulary"])
    _merge(console, report["merge"])
    _remarks(console, report)
    console.print("[dim]nothing was written (--dry-run)[/]")


def _verification(table: Table, v: Report | None) -> None:
    """What --verify and --golden would do."""
    if v is None:
        return
    label_row(table, "read back", "every file and tensor")
    golden = v["golden"]
    if golden is not None:
        amount = f"{count(golden['prompts'], 'prompt')}, {count(golden['positions'], 'position')}"
        label_row(table, "golden", f"{golden['path']}: {amount}")
        label_row(
            table,
            "run",
            f"{golden['dtype']} on {golden['device']}, {nbytes(golden['memory'])} of memory at "
            f"most, {nbytes(golden['bytes_read'])} read",
        )


def _vocabulary(console: Console, v: Report | None) -> None:
    """Where the rows of a new vocabulary come from."""
    if v is None:
        return
    how = "the old vocabulary and what follows it" if v["extends"] else "another vocabulary"
    table = pairs()
    label_row(table, "vocabulary", f"{v['rows_before']:,} rows to {v['rows']:,}: {how}")
    names = {
        "copied": "copied", "special": "special tokens by role or name", "averaged": "averaged",
        "mean": "mean of all", "padding": "padding (mean of all)",
    }  # fmt: skip
    found = (f"{v[key]:,} {name}" for key, name in names.items() if v[key])
    label_row(table, "rows", ", ".join(found))
    console.print(table)


def _tokenizer(console: Console, t: Report | None) -> None:
    if t is None:
        return
    state = "not compared" if not t["texts_compared"] else (
        f"{t['mismatches']:,} of {t['texts_compared']:,} texts differ" if t["mismatches"]
        else f"equal on {t['texts_compared']:,} texts"
    )  # fmt: skip
    console.print(f"tokenizer   {t['kind']}, {count(t['tokens'], 'token')}, {state}")


def show_conversion(out: str, report: Report) -> None:
    """`convert`."""
    console = make_console()
    total = sum(f["bytes"] for f in report["files"])
    console.print(
        f"[bold]{escape(report['model']['title'])}[/] -> {escape(safe(out))}: "
        f"{count(len(report['files']), 'file')}, {nbytes(total)}"
    )
    console.print(f"fingerprint {report['fingerprint']}")
    _tokenizer(console, report["tokenizer"])
    _vocabulary(console, report["vocabulary"])
    _merge(console, report["merge"])
    if report["casts"]:
        _casts(console, report["casts"])
    _remarks(console, {**report, "buffers_dropped": report["source"]["buffers_dropped"]})


_LOSS_WORTH_A_WARNING = 0.1


def _merge(console: Console, m: Report | None) -> None:
    """What is merged; and, once it is done, how much of it the type of the output took."""
    if m is None:
        return
    table = pairs()
    for a in m["adapters"]:
        part = "" if a["weight"] is None else f"{a['weight']:g} of "
        what = f"{part}{safe(a['name'])}: {a['kind']}, {count(a['modules'], 'module')}"
        label_row(table, "merged", what)
    console.print(table)
    tensors = m.get("tensors")
    if not tensors:
        return
    lost = m["lost"]
    if lost is None:
        console.print("[yellow]warning:[/] nothing changes: all that is added is zero")
        return
    most = max((t for t in tensors if t["lost"] is not None), key=lambda t: float(t["lost"]))
    text = f"rounding took {lost:.2%} of the change, {most['lost']:.2%} in {most['name']}"
    if lost > _LOSS_WORTH_A_WARNING:
        console.print(f"[yellow]warning:[/] {text}; --dtype fp32 keeps all of it")
    else:
        console.print(f"[dim]{text}[/]")


def _casts(console: Console, casts: list[Report]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("cast tensors", "values", "changed", "overflowed", "flushed to zero"):
        table.add_column(heading, justify="left" if heading == "cast tensors" else "right")
    keys = ("values", "changed", "overflowed", "flushed_to_zero")
    for kind in sorted({(c["before"], c["after"]) for c in casts}):
        group = [c for c in casts if (c["before"], c["after"]) == kind]
        sums = (f"{sum(c.get(k, 0) for c in group):,}" for k in keys)
        table.add_row(f"{len(group):,} {kind[0]} to {kind[1]}", *sums)
    console.print(table)
    if any(c.get("overflowed") for c in casts):
        console.print("[red]warning:[/] values overflowed to infinity; see llamatools.json")
