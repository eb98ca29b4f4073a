"""Says what a pickle without an archive around it would have run; for the message that refuses it.

Nothing of it is run, resolved or built: opcodes are told apart, and names looked at as text.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from contextlib import suppress

from llamatools.containers import pickleglobals

_MAX_PICKLES = 8
"""Before 1.6 torch wrote five, one behind the other."""


def foreign_globals(data: bytes) -> list[str]:
    """Names in the first pickles of `data` that a file of tensors has no need of, in order.

    Any text may begin like a pickle of protocol 0: such is believed from its end on.
    """
    stream = io.BytesIO(data)
    found: dict[str, None] = {}
    with suppress(Exception):  # where it is no pickle any more
        for _ in range(_MAX_PICKLES):
            names = _globals(stream)
            for module, name in names if data.startswith(b"\x80") else list(names):
                if not pickleglobals.is_known(module, name):
                    found[f"{module}.{name}"] = None
    return list(found)


def _globals(stream: io.BytesIO) -> Iterator[tuple[str, str]]:
    """(module, name) of every global that one pickle mentions, as far as its text tells."""
    texts = ["", ""]
    memo: dict[object, str] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL":
            yield texts[-2], texts[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = texts[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            texts.append(argument)
