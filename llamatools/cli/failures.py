"""From errors to messages and exit codes. No traceback reaches a user."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from llamatools.cli.messages import print_json, tell
from llamatools.engine.commit import committed
from llamatools.engine.words import heard
from llamatools.errors import IOFailed, LlamatoolsError, UsageError, kept
from llamatools.text import safe

_MAX_MESSAGE = 2000
_MAX_PROBLEMS = 100
_INTERNAL = 70
"""A defect of ours (EX_SOFTWARE)."""
_READER_GONE = 141
"""Who read our output closed it: what a shell reports of programs that SIGPIPE ends."""
_NOTHING = "nothing was left behind"


class Stopped(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def guard(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code, having told the user about any failure."""
    as_json = "--json" in arguments
    resume = shlex.join(["llamatools", *arguments])
    if sys.stdout is None:  # closed by whoever started us, and so nothing is to be said there
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        try:
            with heard(_whisper if {"-q", "--quiet"} & set(arguments) else tell):
                result = command()
            sys.stdout.flush()
        except LlamatoolsError as e:
            return _report(e, _left(e, resume), as_json=as_json)
        except MemoryError as e:
            return _report(_no_memory(), _left(e, resume), as_json=as_json)
        except click.exceptions.Exit as e:
            return e.exit_code
        except click.ClickException as e:
            return _report_usage(e, as_json=as_json)
    except (KeyboardInterrupt, click.Abort) as e:  # where our handler of signals is not in place
        tell(f"stopped; {_left(e, resume) or _NOTHING}")
        return 130
    except Stopped as e:
        tell(f"stopped; {_left(e, resume) or _NOTHING}")
        return 128 + e.number
    except (BrokenPipeError, SystemExit):  # click makes the second of the first
        _abandon_stdout()
        return _READER_GONE
    except OSError as e:
        _abandon_stdout()
        tell(f"error: {safe(e)}")
        if left := _left(e, resume):
            tell(f"\n{left}")
        elif committed():
            tell("\nhint: the output is there; what was to be said of it could not be written")
        return IOFailed.exit_code
    except Exception as e:
        _unforeseen(e)
        return _INTERNAL
    return result if isinstance(result, int) else 0


def _abandon_stdout() -> None:
    """Nothing can be written there; Python must not try again, and complain, at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _whisper(text: str) -> None:
    """What --quiet makes of words that are no failure's."""


def _left(error: BaseException, command: str) -> str:
    """What a run that was cut short left, and the command that goes on from there."""
    found = kept(error)
    if found is None:
        return ""
    shown = safe(command, _MAX_MESSAGE)
    same = f":\n\n    {shown}" if shown == command else " again"
    return f"{safe(found, _MAX_MESSAGE)}; to go on, run the same command{same}"


def _report(error: LlamatoolsError, left: str, *, as_json: bool) -> int:
    for problem in _shown(error):
        tell(f"error: {safe(problem, _MAX_MESSAGE)}")
    if error.hint:
        tell(f"\nhint: {safe(error.hint, _MAX_MESSAGE)}")
    if left:
        tell(f"\n{left}")
    if as_json:
        print_json(_as_json(error, left))
        sys.stdout.flush()
    return error.exit_code


def _no_memory() -> IOFailed:
    return IOFailed("out of memory", hint="--jobs 1 and a smaller --max-memory need less")


def _shown(error: LlamatoolsError) -> list[str]:
    more = len(error.problems) - _MAX_PROBLEMS
    return [*error.problems[:_MAX_PROBLEMS], *([f"and {more:,} more problems"] if more > 0 else [])]


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Wrong words on the command line: click's own message, and JSON where that was asked for."""
    with suppress(OSError):
        error.show()
    if as_json:
        usage = UsageError(error.format_message())
        print_json(_as_json(usage))
        sys.stdout.flush()
    return error.exit_code


def _as_json(error: LlamatoolsError, left: str = "") -> dict[str, object]:
    hint = "; ".join(filter(None, (error.hint, " ".join(left.split()))))
    return {
        "$schema": "urn:llamatools:error:1",
        "error": {
            "kind": error.kind,
            "exit_code": error.exit_code,
            "problems": [safe(p, _MAX_MESSAGE) for p in _shown(error)],
            "hint": safe(hint, _MAX_MESSAGE) if hint else None,
        },
    }


def _unforeseen(error: Exception) -> None:
    """One line for the user, the traceback in a file; where there can be none, what it ends in."""
    kind = type(error).__name__
    tell(f"error: a defect in llamatools ({kind}: {safe(error)})")
    try:
        fd, name = tempfile.mkstemp(prefix="llamatools-", suffix=".log", text=True)
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as log:
            traceback.print_exception(error, file=log)
    except OSError:
        last = traceback.extract_tb(error.__traceback__)[-1]
        name = f"that could not be written: {Path(last.filename).name}, line {last.lineno}"
    tell(f"\nhint: please report it with the log {name}")
