"""`llamatools golden`: create, inspect and import golden files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.forward import forward_options, make_settings, runner
from llamatools.cli.messages import print_json
from llamatools.cli.options import SOURCE, json_option

if TYPE_CHECKING:
    from llamatools.checkpoint import Checkpoint
    from llamatools.golden.model import Golden
    from llamatools.reference.settings import Settings

_OUT = click.option(
    "--out", "-o", type=SOURCE, metavar="FILE", required=True, help="File to write."
)
_FORCE = click.option("--force", is_flag=True, help="Replace the file that is there.")
_WIDER = {"fp32": "fp64", "bf16": "fp32", "fp16": "fp32"}


@click.group(short_help="Create, import and inspect what models must answer.")
def golden() -> None:
    """Create, inspect and import golden files: what a model must answer.

    `verify SRC --golden FILE` holds a checkpoint against one.
    """


@golden.command(short_help="Write what a checkpoint answers.")
@click.argument("source", type=SOURCE, metavar="SRC")
@_OUT
@click.option(
    "--prompts",
    type=SOURCE,
    metavar="FILE",
    help='JSON lines of {"text"} or {"ids", "positions"}.  [default: built in]',
)
@click.option("--noise", is_flag=True, help="Run again in a wider type, and note how far that is.")
@_FORCE
@forward_options
@json_option
def create(
    source: str,
    out: str,
    prompts: str | None,
    noise: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write what the checkpoint SRC answers, by llamatools' own forward pass.

    Good for what comes before a change and after it. Whether the forward pass is right, only
    logits that another implementation made can tell: `golden import`.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.errors import UsageError
    from llamatools.golden.prompts import default_prompts, read_prompts
    from llamatools.golden.write import check_target, write_golden

    files = [Path(prompts)] if prompts is not None else []
    check_target(Path(out), force=force, models=[Path(source)], files=files)
    settings = make_settings(options)
    if noise and settings.dtype not in _WIDER:
        raise UsageError(f"--noise: there is no wider type than {settings.dtype}")
    quiet = options["quiet"] or as_json
    with open_checkpoint(source) as checkpoint:
        asked = (
            default_prompts(checkpoint)
            if prompts is None
            else read_prompts(Path(prompts), checkpoint)
        )
        made = _create(checkpoint, asked, settings, noise=noise, quiet=quiet)
    if made is None:
        return
    write_golden(made, Path(out), force=force)
    _tell(made, out, as_json=as_json, quiet=options["quiet"])


def _create(
    checkpoint: Checkpoint, asked: Any, settings: Settings, *, noise: bool, quiet: bool
) -> Golden | None:
    """None in a process that merely computes along."""
    from llamatools.engine.environment import environment
    from llamatools.fingerprints import fingerprint
    from llamatools.golden.create import record
    from llamatools.verifying.following import Nobody
    from llamatools.verifying.verify import measure_noise

    wider = replace(settings, dtype=_WIDER.get(settings.dtype, settings.dtype))
    leads = environment()[0] == 0
    run = runner("golden", settings, quiet=quiet or not leads)
    again = runner("noise", wider, quiet=quiet or not leads)
    if not leads:
        for each in (run, again)[: 1 + noise]:
            each(checkpoint, asked.prompts, Nobody())
        return None
    made, _ = record(checkpoint, asked, run)
    if noise:
        made = replace(made, noise=measure_noise(made, checkpoint, again))
    # Last, since the other processes wait for whatever comes between passes.
    known = replace(made.source, fingerprint=fingerprint(checkpoint).digest)
    return replace(made, source=known)


@golden.command("import", short_help="Take logits that others computed.")
@click.argument("logits", type=SOURCE, metavar="LOGITS")
@_OUT
@click.option(
    "--model", "source", type=SOURCE, metavar="SRC", help="The checkpoint that gave them."
)
@click.option(
    "--generator", required=True, metavar="NAME", help="What computed them: transformers, meta, ..."
)
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="NAME=VERSION",
    help="Versions of that and of what it used; may be given again.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="Type they were computed in.  [default: the one they are stored in]",
)
@_FORCE
@click.option("--quiet", "-q", is_flag=True, help="No summary.")
@json_option
def import_(
    logits: str,
    out: str,
    source: str | None,
    generator: str,
    versions: tuple[str, ...],
    dtype: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write logits that another implementation made as a golden file.

    LOGITS is safetensors or .npz: tokens (n,), positions (n,) and logits (n, vocabulary); of
    several prompts, NAME.tokens and so on; with hidden states as hidden.embedding,
    hidden.layers.0.attention, hidden.layers.0.mlp, hidden.norm (n, dim), or without.
    """
    from llamatools.errors import BadInput, UsageError
    from llamatools.golden.create import source_of
    from llamatools.golden.imported import import_golden
    from llamatools.golden.model import OWN, Source
    from llamatools.golden.read import open_golden
    from llamatools.golden.write import check_target, write_golden
    from llamatools.text import safe

    models = [Path(source)] if source is not None else []
    check_target(Path(out), force=force, models=models, files=[Path(logits)])
    pairs = dict(v.split("=", 1) for v in versions if "=" in v)
    if len(pairs) != len(versions):
        raise UsageError("--version: expected NAME=VERSION, each name once")
    if not generator or generator == OWN:
        raise UsageError(f"--generator: expected a name other than {OWN}")
    plain = open_golden(Path(logits))
    if not plain.plain:
        raise BadInput(f"{safe(logits)}: is a golden file already")
    known = Source()
    if source is not None:
        from llamatools.checkpoint import open_checkpoint
        from llamatools.fingerprints import fingerprint

        with open_checkpoint(source) as checkpoint:
            if checkpoint.spec.vocab_size != plain.vocab_size:
                raise BadInput(
                    f"{safe(logits)}: logits of {plain.vocab_size:,} ids, and the vocabulary of "
                    f"{safe(source)} has {checkpoint.spec.vocab_size:,}"
                )
            known = source_of(checkpoint, fingerprint(checkpoint).digest)
    made = import_golden(plain, known, generator, pairs, dtype)
    write_golden(made, Path(out), force=force)
    _tell(made, out, as_json=as_json, quiet=quiet)


@golden.command(short_help="Say what a golden file holds, and whose it is.")
@click.argument("file", type=SOURCE, metavar="FILE")
@json_option
def inspect(file: str, as_json: bool) -> None:
    """Say what a golden file holds, and whose it is; every number in it is checked."""
    from llamatools.golden.read import check_logits, open_golden

    found = open_golden(Path(file))
    check_logits(found)
    _tell(found, file, as_json=as_json, quiet=False)


def _tell(made: Golden, path: str, *, as_json: bool, quiet: bool) -> None:
    from llamatools.golden.summary import summary

    if as_json:
        print_json(summary(made))
    elif not quiet:
        from llamatools.cli.render_verify import show_golden

        show_golden(path, summary(made))
