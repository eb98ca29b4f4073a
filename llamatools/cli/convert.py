"""`llamatools convert`."""

from __future__ import annotations

import json
from typing import Any

import click

from llamatools.cli.options import SIZE, SOURCE, json_option, run_options


@click.command()
@click.argument("source", type=SOURCE, metavar="SRC")
@click.argument("out", type=SOURCE, metavar="OUT")
@click.option(
    "--to",
    type=click.Choice(["hf", "meta", "safetensors"]),
    required=True,
    help="Layout to write; 'safetensors' changes the container alone.",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "bf16", "fp16", "fp32"]),
    default="keep",
    show_default=True,
    help="Cast every weight; 'keep' leaves each as it is.",
)
@click.option(
    "--weights",
    type=click.Choice(["safetensors", "bin", "pth"]),
    help="Container: safetensors or bin for hf, pth or safetensors for meta.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 1024),
    help="Model-parallel files of a Meta layout.  [default: as officially released]",
)
@click.option(
    "--max-shard-size",
    type=SIZE,
    default="5GB",
    show_default=True,
    help="Largest file of an hf or safetensors layout.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option(
    "--force", is_flag=True, help="Replace the folder OUT and all it holds, in one step at the end."
)
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
    **options: Any,
) -> None:
    """Write the checkpoint SRC in another layout to the new folder OUT.

    SRC is a folder, or its one weight file. The result is proven the same model: its digests,
    and a fingerprint that does not depend on the layout, are in OUT/llamatools.json.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.progress import progress
    from llamatools.conversion import prepare, run
    from llamatools.plan.build import Options
    from llamatools.preview import preview

    wanted = Options(**options)
    with open_checkpoint(source) as opened:
        prepared = prepare(opened, out, wanted, jobs=jobs, max_memory=max_memory, force=force)
        if dry_run:
            report = preview(prepared)
        else:
            with progress("convert", quiet=quiet or as_json) as begin:
                report = run(prepared, begin)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif dry_run:
        from llamatools.cli.render import show_plan

        show_plan(report)
    elif not quiet:
        from llamatools.cli.render import show_conversion

        show_conversion(out, report)
