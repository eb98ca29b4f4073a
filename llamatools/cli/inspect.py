"""`llamatools inspect`."""

from __future__ import annotations

import click

from llamatools.cli.messages import print_json
from llamatools.cli.options import SOURCE, json_option


@click.command()
@click.argument("source", type=SOURCE, metavar="SRC")
@json_option
def inspect(source: str, as_json: bool) -> None:
    """Say which Llama the checkpoint SRC is, and why.

    Reads headers and configs, never the weights themselves.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.inspection import inspect as report_on

    with open_checkpoint(source, probe=False) as opened:
        report = report_on(opened)
    if as_json:
        print_json(report)
        return
    from llamatools.cli.render import show_inspection

    show_inspection(report)
