"""Words on stderr, data on stdout. That nobody reads the words is no reason to fail."""

from __future__ import annotations

import json
from contextlib import suppress

import click


def tell(text: str) -> None:
    """A line on stderr, if it can be written."""
    with suppress(OSError):
        click.echo(text, err=True)


def print_json(report: object) -> None:
    """A report on stdout, in ASCII.

    Names in it are a file's own. Some CI systems obey `##[...]` anywhere in a line, so that one of
    the two signs is written by its code, which is the same JSON.
    """
    click.echo(json.dumps(report, indent=2).replace("##", "#\\u0023"))
