"""`llamatools apply-delta`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.messages import print_json
from llamatools.cli.options import (
    SOURCE,
    TO_OPTION,
    force_option,
    json_option,
    merge_layout_options,
    run_options,
    tokenizer_options,
)

if TYPE_CHECKING:
    from llamatools.deltas.decode import Decoding

_KINDS = (
    "add", "pad-zeros", "pad-mean", "whole-vocabulary", "xor", "vicuna-v0", "alpaca", "ziya",
)  # fmt: skip


@click.command("apply-delta", short_help="Make the model that a delta was made of, from its base.")
@click.argument("base", type=SOURCE, metavar="BASE")
@click.argument("delta", type=SOURCE, metavar="DELTA")
@click.argument("out", type=SOURCE, metavar="OUT")
@TO_OPTION
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    help="What DELTA is: values to add; the same, where BASE's new rows are zeros (vicuna-v0) or "
    "the mean of its rows (alpaca), or where embedding and head are whole (ziya); bits to XOR.  "
    "[default: as DELTA tells]",
)
@click.option("--allow-again", is_flag=True, help="Apply what BASE already holds once more.")
@merge_layout_options
@tokenizer_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@force_option
@run_options
@json_option
def apply_delta(
    base: str,
    delta: str,
    out: str,
    to: str | None,
    kind: str | None,
    allow_again: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    force: bool,
    jobs: int | None,
    max_memory: int,
    verify: bool | None,
    **options: Any,
) -> None:
    """Make the model that DELTA was made of from its base BASE, in the new folder OUT.

    BASE and DELTA may be of any layout. Sums are taken in fp32 or wider and rounded once, to the
    type that BASE has. A delta of make-delta is checked on the way in and its result on the way
    out; XOR files (*.enc) are decoded as they were published.
    """
    from pathlib import Path

    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.produce import Checks, produce
    from llamatools.cli.progress import progress
    from llamatools.deltas.apply import prepare_delta
    from llamatools.deltas.encoded import is_encoded
    from llamatools.deltas.opening import open_delta
    from llamatools.errors import UsageError
    from llamatools.opening.folder import scan
    from llamatools.plan.build import Options

    options["verify"] = verify is not False
    if is_encoded(scan(Path(delta))):
        from llamatools.deltas.decode import prepare_decoding

        if verify:
            raise UsageError("--verify: every XOR file is held against its SHA-256 anyway")
        _refuse_options(to, kind, options)
        with prepare_decoding(
            base, delta, out, jobs=jobs, max_memory=max_memory, force=force
        ) as decoding:
            _decode(decoding, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    with open_checkpoint(base) as opened, open_delta(delta) as change:
        with progress("check", quiet=quiet or as_json) as begin:
            prepared = prepare_delta(
                opened,
                change,
                out,
                Options(to=to or opened.layout.name, **options),
                kind=kind,
                allow_again=allow_again,
                jobs=jobs,
                max_memory=max_memory,
                force=force,
                begin=begin,
            )
        checks = Checks(verify, jobs, max_memory)
        produce("apply", prepared, checks, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _refuse_options(to: str | None, kind: str | None, options: dict[str, Any]) -> None:
    """UsageError where XOR files are to become anything but what they were published as."""
    from llamatools.errors import UsageError
    from llamatools.plan.build import Options

    if kind not in (None, "xor"):
        raise UsageError(f"--kind {kind}: DELTA holds XOR files (*.enc)", hint="leave out --kind")
    plain = Options(to="hf")
    given = [name for name, value in options.items() if value != getattr(plain, name)]
    if to is not None:
        given.insert(0, "to")
    if given:
        flags = {"weights": "--container", "instruct": "--instruct/--base", "verify": "--no-verify"}
        words = ", ".join(flags.get(n, "--" + n.replace("_", "-")) for n in given)
        raise UsageError(
            f"XOR files are decoded as they were published, which {words} would not leave them",
            hint="convert the output: llamatools convert OUT OTHER --to ...",
        )


def _decode(decoding: Decoding, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from llamatools.cli.progress import progress
    from llamatools.deltas.decode import report, run_decoding

    if dry_run:
        found = report(decoding, None)
    else:
        with progress("decode", quiet=quiet or as_json) as begin:
            found = run_decoding(decoding, begin)
    if as_json:
        print_json(found)
    elif dry_run or not quiet:
        _show(found, decoding.total)


def _show(found: dict[str, Any], total: int) -> None:
    from rich.markup import escape

    from llamatools.cli.render import label_row, make_console, pairs
    from llamatools.text import count, nbytes, safe

    console = make_console()
    model = found["model"]
    title = model["title"] if model else "XOR files"
    console.print(
        f"[bold]{escape(title)}[/] -> {escape(safe(found['out']))}: "
        f"{count(len(found['files']), 'file')}, {nbytes(total)}"
    )
    table = pairs()
    label_row(table, "key", f"{safe(found['key']['name'])}, {nbytes(found['key']['bytes'])}")
    console.print(table)
    if model is None:
        for f in found["files"]:
            console.print(f"{escape(safe(f['name']))}  {f['bytes']:,}")
        console.print("[dim]nothing was written (--dry-run)[/]")
        return
    console.print("[dim]every file has the SHA-256 that the delta states[/]")
    for conflict in model["conflicts"]:
        console.print(f"[yellow]conflict:[/] {escape(safe(conflict, 400))}")
    for note in model["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")
