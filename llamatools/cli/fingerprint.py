"""`llamatools fingerprint`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from llamatools.cli.messages import print_json
from llamatools.cli.options import SOURCE, json_option, run_options

if TYPE_CHECKING:
    from llamatools.checkpoint import Checkpoint
    from llamatools.fingerprints import Fingerprint

_SCHEMA = "urn:llamatools:fingerprint:1"


@click.command(short_help="One digest of a model, whatever its layout.")
@click.argument("source", type=SOURCE, metavar="SRC")
@click.argument("other", type=SOURCE, metavar="[SRC2]", required=False)
@click.option("--tensors", is_flag=True, help="Also the digest of every tensor.")
@run_options
@json_option
def fingerprint(
    source: str,
    other: str | None,
    tensors: bool,
    as_json: bool,
    quiet: bool,
    jobs: int | None,
    max_memory: int,
) -> int:
    """One digest of the model SRC, equal for every lossless layout of it.

    With SRC2, names the tensors in which the two models differ, and exits 1 if there are any.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.cli.progress import progress
    from llamatools.fingerprints import differences
    from llamatools.fingerprints import fingerprint as compute
    from llamatools.text import safe

    def of(opened: Checkpoint) -> Fingerprint:
        with progress("fingerprint", quiet=quiet or as_json) as begin:
            return compute(opened, jobs=jobs, max_memory=max_memory, begin=begin)

    with ExitStack() as stack:
        paths = [path for path in (source, other) if path is not None]
        opened = [stack.enter_context(open_checkpoint(path)) for path in paths]
        found = [(path, of(checkpoint)) for path, checkpoint in zip(paths, opened, strict=True)]
    different = differences(found[0][1], found[1][1]) if other is not None else []
    if as_json:
        report: dict[str, object] = {
            "$schema": _SCHEMA,
            "fingerprints": [
                {
                    "source": path,
                    "fingerprint": f.digest,
                    **({"tensors": _tensors(f)} if tensors else {}),
                }
                for path, f in found
            ],
        }
        if other is not None:
            report["equal"] = not different
            report["different"] = [d.name for d in different]
        print_json(report)
        return 1 if different else 0
    for path, f in found:
        click.echo(f"{f.digest}  {safe(path, 4096)}")
        if tensors:
            for name in sorted(f.tensors):
                t = f.tensors[name]
                click.echo(f"  {t.blake3}  {t.dtype} {list(t.shape)} {name}")
    for d in different:
        click.echo(f"differs: {d.name}: {d.left or 'absent'} | {d.right or 'absent'}")
    if other is not None and not different:
        click.echo("equal: every tensor is the same, bit for bit")
    return 1 if different else 0


def _tensors(f: Fingerprint) -> list[dict[str, object]]:
    return [
        {"name": name, "dtype": t.dtype, "shape": list(t.shape), "blake3": t.blake3}
        for name, t in sorted(f.tensors.items())
    ]
