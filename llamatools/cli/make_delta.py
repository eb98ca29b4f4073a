"""`llamatools make-delta`."""

from __future__ import annotations

import json
from typing import Any

import click

from llamatools.cli.options import SIZE, SOURCE, force_option, json_option, run_options


@click.command("make-delta", short_help="Make the delta that leads from one model to another.")
@click.argument("base", type=SOURCE, metavar="BASE")
@click.argument("target", type=SOURCE, metavar="TARGET")
@click.argument("out", type=SOURCE, metavar="OUT")
@click.option(
    "--kind",
    type=click.Choice(["add", "xor"]),
    default="add",
    show_default=True,
    help="add: fp32 values to be added, in an HF layout that other programs apply as well; xor: "
    "the bits that differ, which is exact always.",
)
@click.option(
    "--max-shard-size", type=SIZE, default="5GB", show_default=True, help="Largest weight file."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@force_option
@run_options
@json_option
def make_delta(
    base: str,
    target: str,
    out: str,
    kind: str,
    max_shard_size: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    force: bool,
    jobs: int | None,
    max_memory: int,
) -> None:
    """Make the delta that leads from the model BASE to the model TARGET, in the new folder OUT.

    Both may be of any layout. OUT/llamatools-delta.json says which base it belongs to and what
    must come out, and apply-delta checks both.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.progress import progress
    from llamatools.deltas.make import prepare_making, run_making
    from llamatools.preview import preview

    with open_checkpoint(base) as opened, open_checkpoint(target) as wanted:
        making = prepare_making(
            opened,
            wanted,
            out,
            kind=kind,
            max_shard_size=max_shard_size,
            jobs=jobs,
            max_memory=max_memory,
            force=force,
        )
        if dry_run:
            report = preview(making.prepared)
        else:
            with progress("delta", quiet=quiet or as_json) as begin:
                report = run_making(making, begin)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif dry_run:
        from llamatools.cli.render import show_plan

        show_plan(report)
    elif not quiet:
        _show(out, report)


def _show(out: str, report: dict[str, Any]) -> None:
    from rich.markup import escape

    from llamatools.cli.render import label_row, make_console, pairs
    from llamatools.text import count, nbytes, safe

    console = make_console()
    total = sum(f["bytes"] for f in report["files"])
    console.print(
        f"[bold]delta to {escape(report['target']['title'])}[/] -> {escape(safe(out))}: "
        f"{count(len(report['files']), 'file')}, {nbytes(total)}"
    )
    table = pairs()
    label_row(table, "delta", report["fingerprint"])
    label_row(table, "base", report["base"]["fingerprint"])
    label_row(table, "target", report["target"]["fingerprint"])
    console.print(table)
    values, inexact = report["values"], report["inexact"]
    if inexact:
        console.print(
            f"[yellow]warning:[/] {inexact:,} of {values:,} values do not come back bit for bit; "
            "--kind xor makes a delta that is exact"
        )
    else:
        console.print(f"[dim]all {values:,} values come back bit for bit[/]")
    for conflict in report["conflicts"]:
        console.print(f"[yellow]conflict:[/] {escape(safe(conflict, 400))}")
    for note in report["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")
