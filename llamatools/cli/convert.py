"""`llamatools convert`."""

from __future__ import annotations

from typing import Any

import click

from llamatools.cli.options import (
    SOURCE,
    force_option,
    golden_options,
    json_option,
    layout_options,
    run_options,
    tokenizer_options,
)


@click.command(short_help="Write a checkpoint in another layout.")
@click.argument("source", type=SOURCE, metavar="SRC")
@click.argument("out", type=SOURCE, metavar="OUT")
@click.option(
    "--to",
    type=click.Choice(["hf", "meta", "safetensors"]),
    required=True,
    help="Layout to write; 'safetensors' changes the container alone.",
)
@layout_options
@tokenizer_options
@golden_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@force_option
@run_options
@json_option
def convert(
    source: str,
    out: str,
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
    """Write the checkpoint SRC in another layout to the new folder OUT.

    SRC is a folder, or its one weight file. The result is proven the same model: its digests,
    and a fingerprint that does not depend on the layout, are in OUT/llamatools.json.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.produce import Checks, produce
    from llamatools.conversion import prepare
    from llamatools.plan.build import Options

    checks = Checks(verify, jobs, max_memory, golden, device)
    wanted = Options(verify=verify is not False, **options)
    with open_checkpoint(source) as opened:
        prepared = prepare(opened, out, wanted, jobs=jobs, max_memory=max_memory, force=force)
        produce("convert", prepared, checks, dry_run=dry_run, as_json=as_json, quiet=quiet)
