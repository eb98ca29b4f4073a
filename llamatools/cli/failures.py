"""From errors to messages and exit codes. No traceback reaches a user."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from llamatools.cli.messages import tell
from llamatools.errors import IOFailed, LlamatoolsError, UsageError
from llamatools.text import safe

_MAX_MESSAGE = 2000
_INTERNAL = 70
"""A defect of ours (EX_SOFTWARE)."""
_READER_GONE = 141
"""Who read our output closed it: what a shell reports of programs that SIGPIPE ends."""


class Stopped(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def guard(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code, having told the user about any failure."""
    as_json = "--json" in arguments
    if sys.stdout is None:  # closed by whoever started us, and so nothing is to be said there
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        try:
            result = command()
            sys.stdout.flush()
        except LlamatoolsError as e:
            return _report(e, as_json=as_json)
        except click.exceptions.Exit as e:
            return e.exit_code
        except click.ClickException as e:
            return _report_usage(e, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):  # where our handler of signals is not in place
        tell("stopped; nothing was left behind")
        return 130
    except Stopped as e:
        tell("stopped; nothing was left behind")
        return 128 + e.number
    except (BrokenPipeError, SystemExit):  # click makes the second of the first
        _abandon_stdout()
        return _READER_GONE
    except OSError as e:
        _abandon_stdout()
        tell(f"error: {safe(e)}")
        return IOFailed.exit_code
    except Exception as e:
        _unforeseen(e)
        return _INTERNAL
    return result if isinstance(result, int) else 0


def _abandon_stdout() -> None:
    """Nothing can be written there; Python must not try again, and complain, at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: LlamatoolsError, *, as_json: bool) -> int:
    for problem in error.problems:
        tell(f"error: {safe(problem, _MAX_MESSAGE)}")
    if error.hint:
        tell(f"\nhint: {safe(error.hint, _MAX_MESSAGE)}")
    if as_json:
        click.echo(json.dumps(_as_json(error), ensure_ascii=True, indent=2))
        sys.stdout.flush()
    return error.exit_code


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Wrong words on the command line: click's own message, and JSON where that was asked for."""
    with suppress(OSError):
        error.show()
    if as_json:
        usage = UsageError(error.format_message())
        click.echo(json.dumps(_as_json(usage), ensure_ascii=True, indent=2))
        sys.stdout.flush()
    return error.exit_code


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
    tell(f"error: a defect in llamatools ({kind}: {safe(error)})")
    tell(f"\nhint: please report it with the log {name}")
