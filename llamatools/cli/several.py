"""torchrun starts a command several times over: which commands share their work then.

The others refuse, rather than do it several times and to one output. The first process alone has
anything to say.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import click

from llamatools.engine.environment import environment

_Call = Callable[[], Any]
_SAY = 2.0
"""Seconds for the first process to say why all fail, before torchrun stops it."""
_hushed: list[Any] = []


def _together(name: str, call: _Call) -> Any:
    """Output files are dealt: `produce` does that with the processes it finds in the context."""
    from llamatools.engine.processes import met
    from llamatools.errors import LlamatoolsError

    with ExitStack() as stack:
        try:
            processes = stack.enter_context(met())
        except LlamatoolsError:
            _unhush()  # there may be no first process to say it
            raise
        click.get_current_context().obj = processes
        return call()


def _itself(name: str, call: _Call) -> Any:
    """Layers are dealt, by the forward pass, and processes say themselves what befalls them."""
    _unhush()
    return call()


def _refuse(name: str, call: _Call) -> Any:
    from llamatools.errors import UsageError

    raise UsageError(
        f"{name} is the work of one process, and torchrun started {environment()[2]}",
        hint="run it without torchrun; several processes can "
        + ", ".join(sorted(_SHARING.keys() - {name})),
    )


_SHARING: Mapping[str, Callable[[str, _Call], Any]] = {
    "convert": _together,
    "merge-lora": _together,
    "verify": _itself,
    "golden create": _itself,
}


def share(command: click.Command, name: str = "") -> None:
    """Make a command, or all of a group, do under torchrun what the table says."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            share(below, f"{name} {below.name}".strip())
        return
    callback, how = command.callback, _SHARING.get(name, _refuse)
    assert callback is not None

    @wraps(callback)
    def called(*args: Any, **options: Any) -> Any:
        if environment()[2] == 1:
            return callback(*args, **options)
        return how(name, lambda: callback(*args, **options))

    command.callback = called


def hush() -> None:
    """In all processes but the first, nothing is printed from here on."""
    rank, _, size = environment()
    if rank and size > 1:
        _hushed[:] = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = Path("/dev/null").open("w")  # noqa: SIM115


def _unhush() -> None:
    if _hushed:
        sys.stdout, sys.stderr = _hushed
        _hushed.clear()


def linger(code: int) -> None:
    """Who fails without a word lets the first process have its say."""
    if _hushed and code:
        time.sleep(_SAY)
