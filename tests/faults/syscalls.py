"""The system calls that llamatools makes on files, each of which a test may see, fail or die in.

All doors that Python has to the file system are replaced, in a process that is to end anyway:
functions of `os` wherever a module holds them, files that open() gives, and renameat2, which is
called through ctypes. That none is forgotten is tested: replaying what was seen must give the very
files that are there (`test_replaying_what_was_seen_gives_what_is_there`).
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from doors import DESCRIBE, Call, bytes_of, cut, functions, holders, is_one_of
from watchedfile import opener_for

EXCHANGE = 2
"""renameat2's flag."""


class Hook(Protocol):
    """Who is asked before and told after every call."""

    def before(self, call: Call, short: Callable[[int], Any]) -> Any:
        """None lets the call happen. `short` does no more than so many bytes of it, and returns
        what it gives: whatever is returned here, the caller gets in its place."""

    def after(self, call: Call) -> None: ...


_surveys: dict[int, list[tuple[ModuleType | type, str, Any]]] = {}


def survey() -> list[tuple[ModuleType | type, str, Any]]:
    """Where the functions are that a watch replaces. Done before a fork, it costs a child nothing:
    whatever a child looks at is copied for it."""
    key = len(sys.modules)
    if key not in _surveys:
        wanted: set[Callable[..., Any]] = {*functions(), io.open}
        _surveys[key] = [
            (holder, name, value)
            for holder in holders()
            for name, value in vars(holder).items()
            if not isinstance(value, staticmethod)
            and (
                is_one_of(value, wanted)
                or (isinstance(value, ctypes.CDLL) and hasattr(value, "renameat2"))
            )
        ]
    return _surveys[key]


class Watch:
    """Shows a hook every call below `root`, from `begin` on; there is no way back."""

    def __init__(self, root: Path, hook: Hook, *, keep: bool = False) -> None:
        self._root = os.fspath(root.resolve()) + os.sep
        self._hook = hook
        self._keep = keep

    def begin(self) -> None:
        wrapped: dict[Any, Callable[..., Any]] = {
            real: self._wrap(name, os.fstat if name == "fsync" else real)  # no disk will fail
            for real, name in functions().items()
        }
        real_open = io.open
        wrapped[real_open] = opener_for(real_open)
        for holder, name, value in survey():
            if vars(holder).get(name) is not value:  # a mutation's
                continue
            if isinstance(value, ctypes.CDLL):
                setattr(value, "renameat2", self._renaming(value.renameat2))  # noqa: B010
            else:
                made = wrapped[value]
                setattr(holder, name, staticmethod(made) if isinstance(holder, type) else made)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        describe = DESCRIBE[name]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            call = self._relative(describe(name, args, kwargs))
            if call is None:
                return real(*args, **kwargs)
            result = self._perform(call, real, args, kwargs)
            return None if name == "fsync" else result

        return wrapped

    def _perform(
        self, call: Call, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        def short(size: int) -> Any:
            return self._done(call, real(*cut(args, size), **kwargs), args)

        try:
            given = self._hook.before(call, short)
        except OSError:
            if call.name == "close":  # Linux closes the file whatever it says
                real(*args, **kwargs)
            self._hook.after(replace(call, failed=True))
            raise
        if given is not None:
            return given
        try:
            result = real(*args, **kwargs)
        except OSError:
            self._hook.after(replace(call, failed=True))
            raise
        return self._done(call, result, args)

    def _done(self, call: Call, result: Any, args: tuple[Any, ...]) -> Any:
        """Tell what came of a call; returns its result."""
        if call.name == "open":
            call = replace(call, inode=os.fstat(result).st_ino)
        elif call.name == "write":
            data = bytes_of(args, result) if self._keep else b""
            call = replace(call, size=result, data=data)
        self._hook.after(call)
        return result

    def _renaming(self, real: Any) -> Callable[..., int]:
        """renameat2, which says -1 and leaves the reason in errno."""

        def renameat2(old_at: int, old: bytes, new_at: int, new: bytes, flag: int) -> int:
            name = "exchange" if flag == EXCHANGE else "rename"
            call = self._relative(Call(name, os.fsdecode(old), os.fsdecode(new), flags=flag))
            arguments = (old_at, old, new_at, new, flag)
            if call is None:
                return int(real(*arguments))
            try:
                self._hook.before(call, lambda size: None)
            except OSError as e:
                self._hook.after(replace(call, failed=True))
                ctypes.set_errno(e.errno or 0)
                return -1
            result = int(real(*arguments))
            code = ctypes.get_errno()
            self._hook.after(replace(call, failed=result != 0))
            ctypes.set_errno(code)
            return result

        return renameat2

    def _relative(self, call: Call | None) -> Call | None:
        """The same with its paths below the folder; None where it concerns others."""
        if call is None or not (call.path + os.sep).startswith(self._root):
            return None
        paths = (call.path, call.other)
        path, other = (p[len(self._root) :] if p.startswith(self._root) else p for p in paths)
        return replace(call, path=path, other=other)
