"""`llamatools inspect`."""

from __future__ import annotations

import json
from typing import Any

import click

from llamatools.cli.memory_options import memory_options, refuse_without_kv_memory
from llamatools.cli.options import SOURCE, json_option


@click.command()
@click.argument("source", type=SOURCE, metavar="SRC")
@memory_options
@json_option
def inspect(source: str, as_json: bool, kv_memory: bool, **asked: Any) -> int | None:
    """Say which Llama the checkpoint SRC is, and why.

    Reads headers and configs, never the weights themselves.
    """
    if kv_memory:
        return _memory(source, as_json, **asked)
    refuse_without_kv_memory(asked)
    from llamatools.checkpoint import open_checkpoint
    from llamatools.inspection import inspect as report_on

    with open_checkpoint(source, probe=False) as opened:
        report = report_on(opened)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return None
    from llamatools.cli.render import show_inspection

    show_inspection(report)
    return None


def _memory(
    source: str,
    as_json: bool,
    *,
    gpus: tuple[str | int, ...],
    compare: bool,
    engine: str,
    contexts: tuple[int, ...] | None,
    fail_if_over: int | None,
    **asked: Any,
) -> int:
    """`inspect --kv-memory`; 1 where a limit is passed."""
    from llamatools.memory.engines import ENGINES
    from llamatools.memory.gpus import find, known
    from llamatools.memory.question import Question
    from llamatools.memory.report import answer
    from llamatools.memory.source import read_subject

    named = find(gpus)
    shown = tuple(dict.fromkeys((*known().values(), *named))) if compare else named
    question = Question(
        contexts=contexts or (), engine=ENGINES[engine], gpus=shown, limit=fail_if_over, **asked
    )
    found = answer(read_subject(source), question)
    if as_json:
        click.echo(json.dumps(found.report, indent=2))
    else:
        from llamatools.cli.render_memory import show_memory

        show_memory(found)
    return 1 if found.over else 0
