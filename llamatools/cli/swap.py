"""`llamatools tokenizer swap`."""

from __future__ import annotations

from typing import Any

import click

from llamatools.cli.options import (
    SOURCE,
    TO_OPTION,
    force_option,
    json_option,
    layout_options,
    model_checks,
    run_options,
)


@click.command(short_help="Give a model another tokenizer.")
@click.argument("model", type=SOURCE, metavar="MODEL")
@click.argument("tokenizer", type=SOURCE, metavar="TOKENIZER")
@click.argument("out", type=SOURCE, metavar="OUT")
@TO_OPTION
@click.option(
    "--old-tokenizer",
    type=SOURCE,
    metavar="PATH",
    help="The tokenizer the model was trained with.  [default: the one beside the weights]",
)
@click.option(
    "--pad-to-multiple-of",
    "pad_to",
    type=click.IntRange(1, 65536),
    default=1,
    metavar="N",
    help="Add rows until their number is a multiple of N, 64 say.",
)
@layout_options
@model_checks
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@force_option
@run_options
@json_option
def swap(
    model: str,
    tokenizer: str,
    out: str,
    to: str | None,
    old_tokenizer: str | None,
    pad_to: int,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    force: bool,
    jobs: int | None,
    max_memory: int,
    verify: bool | None,
    **options: Any,
) -> None:
    """Give the model MODEL the tokenizer TOKENIZER, in the new folder OUT.

    Tokens that both tokenizers have keep their rows of the embedding and the head, bit for bit.
    Others get the mean of the old tokens that they are made of, or else of all. Special tokens go
    by their role.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.produce import Checks, produce
    from llamatools.plan.build import Options
    from llamatools.swapping import Swap, prepare_swap

    checks = Checks(verify, jobs, max_memory)
    with open_checkpoint(model) as opened:
        wanted = Options(to=to or opened.layout.name, verify=verify is not False, **options)
        prepared = prepare_swap(
            opened,
            out,
            Swap(tokenizer, old_tokenizer, pad_to),
            wanted,
            jobs=jobs,
            max_memory=max_memory,
            force=force,
        )
        produce("swap", prepared, checks, dry_run=dry_run, as_json=as_json, quiet=quiet)
