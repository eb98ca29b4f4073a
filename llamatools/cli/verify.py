"""`llamatools verify`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.forward import forward_options, make_settings, runner
from llamatools.cli.messages import print_json
from llamatools.cli.options import SOURCE, json_option

if TYPE_CHECKING:
    from llamatools.checkpoint import Checkpoint
    from llamatools.golden.create import Run
    from llamatools.golden.prompts import Prompts
    from llamatools.verifying.verdict import Wishes
    from llamatools.verifying.verify import Outcome

_LIMIT = click.FloatRange(0)
_GATES = (
    "exact", "fp64", "same", "fp32", "fp32-fp64", "fp32-deep", "cast-fp16", "cast-fp16-deep",
    "fp16", "fp16-deep", "cast", "cast-deep", "bf16", "bf16-deep", "quantised",
)  # fmt: skip


@click.command(short_help="Is it the model it should be? If not, where and why.")
@click.argument("source", type=SOURCE, metavar="SRC")
@click.option("--golden", type=SOURCE, metavar="FILE", help="Logits the model must give.")
@click.option(
    "--against", "other", type=SOURCE, metavar="OTHER", help="A checkpoint to be equal to."
)
@click.option(
    "--prompts", type=SOURCE, metavar="FILE", help="Prompts for --against, as JSON lines."
)
@click.option("--text", type=SOURCE, metavar="FILE", help="Also the perplexity on a text.")
@click.option(
    "--text-tokens",
    type=click.IntRange(2, 1 << 24),
    default=16384,
    show_default=True,
    help="Tokens of the text, at most.",
)
@click.option(
    "--gate",
    type=click.Choice(_GATES),
    metavar="GATE",
    help=f"How far logits may be apart: {', '.join(_GATES)}.  [default: by what is compared]",
)
@click.option("--max-rms", type=_LIMIT, metavar="X", help="Limit of rms(diff)/std(logits).")
@click.option("--max-mean-kl", type=_LIMIT, metavar="X", help="Limit of the mean KL, in nats.")
@click.option("--max-p95-kl", type=_LIMIT, metavar="X", help="Limit of its 95th percentile.")
@click.option("--max-perplexity", type=_LIMIT, metavar="X", help="Limit on the text.")
@click.option("--junit", type=SOURCE, metavar="FILE", help="Write the checks as JUnit XML.")
@click.option("--report", type=SOURCE, metavar="FILE", help="Write a page of HTML.")
@forward_options
@json_option
def verify(
    source: str,
    golden: str | None,
    other: str | None,
    junit: str | None,
    report: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run the checkpoint SRC, of any layout, and say whether it is the model it should be.

    What it should be is a golden file, or another checkpoint. On failure, says where the forward
    pass first goes wrong, at which positions, and what that usually means. Exits 1.
    """
    from llamatools.checkpoint import open_checkpoint
    from llamatools.engine.environment import environment
    from llamatools.verifying.outputs import check_targets, reports

    leads = environment()[0] == 0
    if not leads:
        junit = report = None
    models = [Path(p) for p in (source, other) if p is not None]
    files = [Path(p) for p in (golden, options["prompts"], options["text"]) if p is not None]
    outputs = [Path(p) for p in (junit, report) if p is not None]
    check_targets(outputs, models=models, files=files)
    with reports(source, junit, report) as write, ExitStack() as stack:
        _check_words(golden, other, options)
        checkpoint = stack.enter_context(open_checkpoint(source))
        second = stack.enter_context(open_checkpoint(other)) if other is not None else None
        quiet = options["quiet"] or as_json or not leads
        run = runner("verify", make_settings(options), quiet=quiet)
        outcome = _run(checkpoint, golden, second, options, run, leads=leads)
        if outcome is None:
            return 0
        from llamatools.verifying.report import build_report

        found = build_report(checkpoint, outcome, golden, other)
        write(found)
    if as_json:
        print_json(found)
    elif not options["quiet"]:
        from llamatools.cli.render_verify import show_verdict

        show_verdict(found)
    return 0 if outcome.holds else 1


def _check_words(golden: str | None, other: str | None, options: dict[str, Any]) -> None:
    """UsageError where options contradict each other, or say nothing."""
    from llamatools.errors import UsageError

    if golden is not None and other is not None:
        raise UsageError("--golden and --against exclude each other")
    if golden is None and other is None and options["text"] is None:
        raise UsageError("nothing to hold the model against: --golden, --against or --text")
    if options["prompts"] is not None and other is None:
        raise UsageError("--prompts is for --against; a golden file has its own")


def _run(
    checkpoint: Checkpoint,
    golden: str | None,
    other: Checkpoint | None,
    options: dict[str, Any],
    run: Run,
    *,
    leads: bool,
) -> Outcome | None:
    """None in a process that merely computes along."""
    from llamatools.golden.prompts import default_prompts, read_prompts
    from llamatools.golden.read import check_logits, open_golden
    from llamatools.verifying.following import follow, follow_against
    from llamatools.verifying.perplexity import read_text
    from llamatools.verifying.verify import against, verify

    text = None
    if options["text"] is not None:
        text = read_text(Path(options["text"]), checkpoint, options["text_tokens"])

    def prompts() -> Prompts:
        given = options["prompts"]
        return (
            default_prompts(checkpoint) if given is None else read_prompts(Path(given), checkpoint)
        )

    wishes = _wishes(options)
    if other is not None:
        if leads:
            return against(checkpoint, other, prompts, text, run, wishes)
        follow_against(checkpoint, other, prompts, text, run)
        return None
    held = open_golden(Path(golden)) if golden is not None else None
    if held is not None:
        check_logits(held)  # before a run that may take hours
    if leads:
        return verify(checkpoint, held, text, run, wishes)
    follow(checkpoint, held, text, run)
    return None


def _wishes(options: dict[str, Any]) -> Wishes:
    from llamatools.verifying.verdict import Wishes

    limits = {key: options[f"max_{key}"] for key in ("rms", "mean_kl", "p95_kl")}
    return Wishes(options["gate"], limits, options["max_perplexity"])
