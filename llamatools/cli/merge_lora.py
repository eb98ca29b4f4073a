"""`llamatools merge-lora`."""

from __future__ import annotations

from typing import Any

import click

from llamatools.cli.options import (
    SOURCE,
    TO_OPTION,
    WEIGHTS,
    force_option,
    golden_options,
    json_option,
    merge_layout_options,
    run_options,
    tokenizer_options,
)


@click.command("merge-lora", short_help="Merge adapters into a checkpoint of any layout.")
@click.argument("base", type=SOURCE, metavar="BASE")
@click.argument("adapters", type=SOURCE, metavar="ADAPTER...", nargs=-1, required=True)
@click.argument("out", type=SOURCE, metavar="OUT")
@TO_OPTION
@click.option(
    "--weights",
    "parts",
    type=WEIGHTS,
    metavar="W,W...",
    help="Add up this part of each adapter's change of BASE.  [default: one after the other]",
)
@click.option("--allow-again", is_flag=True, help="Merge what BASE already holds once more.")
@merge_layout_options
@tokenizer_options
@golden_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@force_option
@run_options
@json_option
def merge_lora(
    base: str,
    adapters: tuple[str, ...],
    out: str,
    to: str | None,
    parts: tuple[float, ...] | None,
    allow_again: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    force: bool,
    jobs: int | None,
    max_memory: int,
    verify: bool | None,
    golden: str | None,
    device: str,
    **options: Any,
) -> None:
    """Merge adapters into the checkpoint BASE, of any layout, in the new folder OUT.

    Several adapters are merged in the order in which they are given, each into the result of the
    one before. Sums are taken in fp32 or wider and rounded once, to the type that BASE has.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.produce import Checks, produce
    from llamatools.merging.prepare import Merge, prepare_merge
    from llamatools.plan.build import Options

    checks = Checks(verify, jobs, max_memory, golden, device)
    with open_checkpoint(base) as opened:
        prepared = prepare_merge(
            opened,
            out,
            Merge(adapters, parts, allow_again),
            Options(to=to or opened.layout.name, verify=verify is not False, **options),
            jobs=jobs,
            max_memory=max_memory,
            force=force,
        )
        produce("merge", prepared, checks, dry_run=dry_run, as_json=as_json, quiet=quiet)
