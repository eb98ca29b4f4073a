"""`llamatools check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llamatools.cli.messages import print_json
from llamatools.cli.options import SOURCE, json_option, run_options

if TYPE_CHECKING:
    from llamatools.checking.check import Checked
    from llamatools.errors import LlamatoolsError


@click.command(short_help="Are all files still what they were? If not, which.")
@click.argument("folders", type=SOURCE, metavar="OUT...", nargs=-1, required=True)
@click.option(
    "--fingerprint",
    is_flag=True,
    help="Also compute the fingerprint from the tensors, and hold it against the manifest's.",
)
@run_options
@json_option
def check(
    folders: tuple[str, ...],
    fingerprint: bool,
    as_json: bool,
    quiet: bool,
    jobs: int | None,
    max_memory: int,
) -> int:
    """Read every file of OUT again, and say whether it is what it was: sizes, digests, and that
    nothing is missing and nothing was added that a program might load.

    What it was is said by llamatools.json, which is checked by its own digest; by lists such as
    Meta's checklist.chk and SHA256SUMS; and by the digests in the hub's cache. All that is wrong is
    named. Exits 1.

    \b
      llamatools check llama3-hf
      llamatools check ~/Meta-Llama-3-8B ~/.cache/huggingface/hub/models--*/snapshots/*
    """
    from llamatools.checking.report import build_report
    from llamatools.cli.render_check import lines
    from llamatools.errors import LlamatoolsError

    quietly = quiet or as_json
    outcomes = [(f, _outcome(f, fingerprint, jobs, max_memory, quiet=quietly)) for f in folders]
    errors = [found for _, found in outcomes if isinstance(found, LlamatoolsError)]
    if len(errors) == len(outcomes):
        raise _all_of(errors)
    report = build_report(outcomes)
    if as_json:
        print_json(report)
    else:
        for line in lines(report, quiet=quiet):
            click.echo(line)
    codes = {found.exit_code for _, found in outcomes} - {0}
    return 1 if 1 in codes else min(codes, default=0)


def _outcome(
    path: str, fingerprint: bool, jobs: int | None, max_memory: int, *, quiet: bool
) -> Checked | LlamatoolsError:
    """What was found, or why nothing was: one folder's trouble leaves the others to be checked."""
    from llamatools.checking.check import check as look_at
    from llamatools.cli.progress import progress
    from llamatools.errors import LlamatoolsError

    try:
        with progress("check", quiet=quiet) as begin:
            return look_at(
                path, fingerprint=fingerprint, jobs=jobs, max_memory=max_memory, begin=begin
            )
    except LlamatoolsError as e:
        return e


def _all_of(errors: list[LlamatoolsError]) -> LlamatoolsError:
    """One error that says what several do."""
    first = errors[0]
    problems = [p for e in errors for p in e.problems]
    return type(first)(problems, hint=first.hint)
