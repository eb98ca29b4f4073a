"""`llamatools inspect`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.memory_options import memory_options, refuse_without_kv_memory
from llamatools.cli.messages import tell
from llamatools.cli.options import SOURCE, json_option
from llamatools.cli.progress import progress

if TYPE_CHECKING:
    from llamatools.hub.fetching import Asking


@click.command()
@click.argument("source", type=SOURCE, metavar="SRC")
@memory_options
@json_option
def inspect(source: str, as_json: bool, kv_memory: bool, **asked: Any) -> int | None:
    """Say which Llama the checkpoint SRC is, and why.

    Reads headers and configs, never the weights themselves. SRC may also be a repository of a hub,
    org/name or org/name@revision, whose headers are fetched.
    """
    if kv_memory:
        return _memory(source, as_json, **asked)
    refuse_without_kv_memory(asked)
    from llamatools.checkpoint import open_checkpoint
    from llamatools.hub.opening import here_or_there
    from llamatools.inspection import inspect as report_on

    _refuse_name(source)
    with here_or_there(source, _asking()) as place, open_checkpoint(place, probe=False) as opened:
        report = report_on(opened)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return None
    from llamatools.cli.render import show_inspection

    show_inspection(report)
    return None


def _refuse_name(source: str) -> None:
    """BadInput where a released model is named, of which nothing is here to inspect."""
    from llamatools.errors import BadInput
    from llamatools.hub.opening import exists
    from llamatools.memory import registry
    from llamatools.text import safe

    if not exists(Path(source)) and registry.by_name(source):
        raise BadInput(
            f"{safe(source)}: no such file or folder",
            hint="the names of released models are for --kv-memory",
        )


def _asking() -> Asking:
    """Where a hub is asked, that is said, and a bar shows how far it is."""
    from llamatools.hub.fetching import Asking

    return Asking(tell, partial(progress, "headers", quiet=False, noun="file"))


def _memory(
    source: str,
    as_json: bool,
    *,
    gpus: tuple[str | int, ...],
    compare: bool,
    engine: str,
    contexts: tuple[int, ...] | None,
    fail_if_over: int | None,
    chart: Path | None,
    force: bool,
    **asked: Any,
) -> int:
    """`inspect --kv-memory`; 1 where a limit is passed."""
    from llamatools.cli.chart_file import check_chart, write_chart
    from llamatools.errors import UsageError
    from llamatools.memory.engines import ENGINES
    from llamatools.memory.gpus import find, known
    from llamatools.memory.question import Question
    from llamatools.memory.report import answer
    from llamatools.memory.source import read_subject

    if chart:
        check_chart(chart, force=force)
    elif force:
        raise UsageError("--force belongs to --plot", hint="add --plot FILE.svg")
    named = find(gpus)
    shown = tuple(dict.fromkeys((*known().values(), *named))) if compare else named
    question = Question(
        contexts=contexts or (), engine=ENGINES[engine], gpus=shown, limit=fail_if_over, **asked
    )
    found = answer(read_subject(source, _asking()), question)
    if chart:
        write_chart(found, chart, force=force)
    if as_json:
        click.echo(json.dumps(found.report, indent=2))
    else:
        from llamatools.cli.render_memory import show_memory

        show_memory(found)
    return 1 if found.over else 0
