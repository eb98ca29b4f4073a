"""Reports on tokenizers as a person reads them on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatools.cli.render import label_row, make_console, pairs
from llamatools.text import count, nbytes, safe
from llamatools.tokenizer.compare import Comparison, Mismatch
from llamatools.tokenizer.tokenizer import Tokenizer

Report = dict[str, Any]
_AROUND = 4
"""Tokens shown before and after the first that differs."""
_SHOWN = 12
"""Special tokens shown; --json has them all."""


def show_inspection(report: Report) -> None:
    """`tokenizer inspect`."""
    out = make_console()
    kind = {"ranks": "byte-level BPE by ranks", "sentencepiece": "SentencePiece BPE"}
    title = report["official"] or "no official vocabulary"
    out.print(f"[bold]{kind[report['kind']]}[/], {escape(title)}")
    table = pairs()
    label_row(table, "read from", report["form"])
    label_row(table, "tokens", _sizes(report))
    roles = ((r, i) for r, i in report["roles"].items() if i is not None)
    names = {s["id"]: s["text"] for s in report["specials"]}
    label_row(table, "roles", ", ".join(f"{r} {i} {names.get(i, '')}".strip() for r, i in roles))
    label_row(table, "special", _specials(report["specials"]))
    if report["added"]:
        label_row(table, "added", ", ".join(f"{a['id']} {a['text']}" for a in report["added"][:8]))
    label_row(table, "template", "for chat" if report["chat_template"] else "none")
    label_row(table, "sha256", report["sha256"])
    label_row(table, "digest", report["digest"])
    out.print(table)
    for name, style in (("conflicts", "yellow"), ("deviations", "yellow"), ("notes", "dim")):
        _lines(out, name.removesuffix("s"), report[name], style)


def _sizes(report: Report) -> str:
    text = f"{report['size']:,}"
    more = report["size"] - report["base_size"]
    return f"{text} ({report['base_size']:,} and {more:,} beside them)" if more else text


def _specials(specials: list[Report]) -> str:
    shown = [s for s in specials if "reserved" not in s["text"]]
    text = ", ".join(f"{s['id']} {s['text']}" for s in shown[:_SHOWN])
    rest = len(specials) - min(len(shown), _SHOWN)
    return text + (f" and {rest} more" if rest else "")


def _lines(out: Console, label: str, lines: list[str], style: str) -> None:
    for line in lines:
        out.print(f"[{style}]{label}:[/] {escape(safe(line, 600))}")


def show_conversion(target: str, report: Report) -> None:
    """`tokenizer convert`."""
    out = make_console()
    out.print(f"{report['kind']}, {count(report['size'], 'token')} -> {escape(safe(target))}")
    _files(out, report["files"])
    _lines(out, "conflict", report["conflicts"], "yellow")
    _lines(out, "inexact", report["losses"], "yellow")
    _lines(out, "note", report["notes"], "dim")
    texts = count(report["texts_compared"], "text")
    if not report["texts_compared"]:
        out.print("not compared (--no-verify)")
    elif report["mismatches"]:
        out.print(f"[yellow]{report['mismatches']:,} of {texts} give other tokens[/]")
    else:
        out.print(f"equal on {texts}, by the libraries of both sides")


def _files(out: Console, files: dict[str, int]) -> None:
    table = pairs()
    for name, size in files.items():
        label_row(table, name, nbytes(size))
    out.print(table)


def show_merging(target: str, report: Report) -> None:
    """`tokenizer merge`."""
    out = make_console()
    out.print(
        f"{count(report['size'], 'token')} -> {escape(safe(target))}: "
        f"{report['added']:,} added, {report['shared']:,} were there already"
    )
    _files(out, report["files"])
    _lines(out, "inexact", report["losses"], "yellow")


def show_comparison(a: str, b: str, result: Comparison, left: Tokenizer, right: Tokenizer) -> None:
    """`tokenizer compare`."""
    out = make_console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("texts")
    table.add_column("tried", justify="right")
    table.add_column("differ", justify="right")
    for name, (n, bad) in result.groups.items():
        style = "red" if bad else ""
        table.add_row(name, f"{n:,}", f"{bad:,}", style=style)
    out.print(table)
    if result.first is not None:
        _mismatch(out, result.first, left, right)
    _lines(out, "special tokens", list(result.specials), "yellow")
    if result.equal:
        out.print(f"equal: {escape(safe(a))} and {escape(safe(b))}")
    else:
        out.print(f"[red]different:[/] {escape(safe(a))} and {escape(safe(b))}")


def _mismatch(out: Console, m: Mismatch, left: Tokenizer, right: Tokenizer) -> None:
    """The shortest text that differs, and the tokens around the first that is another."""
    out.print(f"\nfirst difference, in {m.what}: {escape(safe(repr(m.text), 300))}")
    if m.what != "ids":
        label_only = pairs()
        label_row(label_only, "A gives back", repr(m.decoded_a))
        label_row(label_only, "B gives back", repr(m.decoded_b))
        out.print(label_only)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("token", "A", "", "B", ""):
        table.add_column(heading, justify="right" if heading in ("token", "A", "B") else "left")
    last = max(len(m.a), len(m.b))
    for i in range(max(0, m.at - _AROUND), min(last, m.at + _AROUND + 1)):
        cells = (*_cell(m.a, i, left), *_cell(m.b, i, right))
        differs = i >= m.at and m.a[i : i + 1] != m.b[i : i + 1]
        table.add_row(str(i), *map(escape, cells), style="yellow" if differs else "")
    out.print(table)
    out.print(f"[dim]{len(m.a)} tokens in A, {len(m.b)} in B[/]\n")


def _cell(ids: tuple[int, ...], i: int, tokenizer: Tokenizer) -> tuple[str, str]:
    if i >= len(ids):
        return "", ""
    return str(ids[i]), safe(tokenizer.shown(ids[i]), 40)
