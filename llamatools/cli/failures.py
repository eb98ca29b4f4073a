"""From errors to messages and exit codes. No traceback reaches a user."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from llamatools.errors import LlamatoolsError
from llamatools.text import safe

_MAX_MESSAGE = 2000
_INTERNAL = 70
"""Not one of the documented codes: a defect of ours (EX_SOFTWARE)."""


class Stopped(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def guard(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code, having told the user about any failure."""
    try:
        result = command()
    except LlamatoolsError as e:
        _report(e, as_json="--json" in arguments)
        return e.exit_code
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; nothing was left behind", err=True)
        return 130
    except Stopped as e:
        click.echo("stopped; nothing was left behind", err=True)
        return 128 + e.number
    except BrokenPipeError:
        # The reader of our output went away; Python must not complain about that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as e:
        _unforeseen(e)
        return _INTERNAL
    return result if isinstance(result, int) else 0


def _report(error: LlamatoolsError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_json(error), ensure_ascii=True, indent=2))
    for problem in error.problems:
        click.echo(f"error: {safe(problem, _MAX_MESSAGE)}", err=True)
    if error.hint:
        click.echo(f"\nhint: {safe(error.hint, _MAX_MESSAGE)}", err=True)


def _as_json(error: LlamatoolsError) -> dict[str, object]:
    return {
        "$schema": "urn:llamatools:error:1",
        "error": {
            "kind": error.kind,
            "exit_code": error.exit_code,
            "problems": [safe(p, _MAX_MESSAGE) for p in error.problems],
            "hint": error.hint,
        },
    }


def _unforeseen(error: Exception) -> None:
    """One line for the user, the traceback in a file."""
    fd, name = tempfile.mkstemp(prefix="llamatools-", suffix=".log", text=True)
    with os.fdopen(fd, "w", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    kind = type(error).__name__
    click.echo(f"error: a defect in llamatools ({kind}: {safe(error)})", err=True)
    click.echo(f"\nhint: please report it with the log {Path(name)}", err=True)
