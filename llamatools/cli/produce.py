"""Run a prepared command that writes a model, or print its plan, and report on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatools.cli.messages import print_json

if TYPE_CHECKING:
    from llamatools.conversion import Prepared


def produce(name: str, prepared: Prepared, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """What every command does once it knows what to write."""
    from llamatools.cli.progress import progress
    from llamatools.conversion import run
    from llamatools.preview import preview

    if dry_run:
        report = preview(prepared)
    else:
        with progress(name, quiet=quiet or as_json) as begin:
            report = run(prepared, begin)
    if as_json:
        print_json(report)
    elif dry_run:
        from llamatools.cli.render import show_plan

        show_plan(report)
    elif not quiet:
        from llamatools.cli.render import show_conversion

        show_conversion(str(prepared.out), report)
