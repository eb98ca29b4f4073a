"""Words on stderr. That nobody can read them is no reason for a command to fail."""

from __future__ import annotations

from contextlib import suppress

import click


def tell(text: str) -> None:
    """A line on stderr, if it can be written."""
    with suppress(OSError):
        click.echo(text, err=True)
