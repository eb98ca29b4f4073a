"""`llamatools extract-lora`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.options import SOURCE, force_option, json_option

if TYPE_CHECKING:
    from rich.console import Console


class Names(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Words with commas between them."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(word.strip() for word in value.split(","))
        if not all(words):
            self.fail(f"{value!r} are not names; write them like q_proj,v_proj", param, ctx)
        return words


NAMES = Names()
_SAVED: dict[tuple[str, ...], tuple[str, ...] | None] = {("auto",): None, ("none",): ()}


@click.command("extract-lora", short_help="Write the difference of two checkpoints as an adapter.")
@click.argument("base", type=SOURCE, metavar="BASE")
@click.argument("tuned", type=SOURCE, metavar="TUNED")
@click.argument("out", type=SOURCE, metavar="OUT")
@click.option("--rank", type=click.IntRange(1), required=True, help="Rank of the factors, at most.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Type of the factors.",
)
@click.option(
    "--modules",
    type=NAMES,
    metavar="NAME,NAME...",
    help="Modules that get factors; embed_tokens and lm_head may be among them.  "
    "[default: all linear layers]",
)
@click.option(
    "--save-modules",
    type=NAMES,
    default="auto",
    show_default=True,
    metavar="auto|none|NAME,NAME...",
    help="What is saved in full if it differs, among norms, embed_tokens, lm_head and bias.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(0),
    metavar="X",
    help="Write nothing, and exit 1, where the total error is larger.",
)
@force_option
@click.option("--jobs", type=click.IntRange(1, 64), help="Threads.  [default: processors, max 4]")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary.")
@json_option
def extract_lora(
    base: str,
    tuned: str,
    out: str,
    rank: int,
    dtype: str,
    modules: tuple[str, ...] | None,
    save_modules: tuple[str, ...],
    max_error: float | None,
    force: bool,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the difference of the checkpoints BASE and TUNED, of any layouts, as a PEFT adapter.

    Every linear layer that differs gets the best factors of the rank given. The error of a tensor
    is the length of what they lack over that of the difference; it is measured on the factors as
    they are stored. `merge-lora BASE OUT` makes TUNED again, up to that.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.progress import progress
    from llamatools.extraction.choice import Extract

    wishes = Extract(rank, dtype, modules, _SAVED.get(save_modules, save_modules), max_error)
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        from llamatools.extraction.extract import extract

        with progress("extract", quiet=quiet or as_json) as begin:
            report = extract(a, b, out, wishes, jobs=jobs, force=force, begin=begin)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif not quiet:
        _show(out, report)


Report = dict[str, Any]


def _show(out: str, report: Report) -> None:
    from rich.markup import escape

    from llamatools.cli.render import label_row, make_console, pairs
    from llamatools.text import count, listing, nbytes, safe

    console = make_console()
    size = nbytes(sum(f["bytes"] for f in report["files"]))
    models = " to ".join(escape(safe(report[which]["name"])) for which in ("base", "tuned"))
    files = count(len(report["files"]), "file")
    console.print(
        f"[bold]{models}[/] -> {escape(safe(out))}: rank {report['rank']}, {files}, {size}"
    )
    _show_factors(console, report)
    table = pairs()
    for stored in ("bias", "in full", "left out"):
        names = [t["name"] for t in report["tensors"] if t["stored"] == stored]
        if names:
            label_row(table, stored, listing(names))
    label_row(table, "unchanged", count(report["equal"], "tensor"))
    label_row(table, "error", f"{report['error']:.3g} of all that differs")
    console.print(table)
    for kind, style in (("conflicts", "yellow"), ("notes", "dim")):
        for text in report[kind]:
            console.print(f"[{style}]{kind[:-1]}:[/] {escape(safe(text, 400))}")


def _show_factors(console: Console, report: Report) -> None:
    """A row for every kind of layer that has factors."""
    from rich.table import Table

    kinds: dict[str, list[Report]] = {}
    for t in report["tensors"]:
        if t["stored"] == "factors":
            kinds.setdefault(t["name"].split(".")[-2], []).append(t)
    if not kinds:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("factors", "tensors", "rank", "least error", "largest"):
        table.add_column(heading, justify="left" if heading == "factors" else "right")
    for kind, tensors in kinds.items():
        errors = [t["error"] for t in tensors]
        table.add_row(
            kind,
            f"{len(tensors):,}",
            f"{max(t['rank'] for t in tensors):,}",
            f"{min(errors):.3g}",
            f"{max(errors):.3g}",
        )
    console.print(table)
