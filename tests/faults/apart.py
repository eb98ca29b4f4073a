"""A child with mounts of its own, which go with it: a small file system to fill."""

from __future__ import annotations

import ctypes
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_PRIVATE = 0x4000 | 1 << 18
"""MS_REC | MS_PRIVATE"""
_CANNOT = b"no mounts here"


def apart(work: Callable[[Path], T], folder: Path, options: str) -> T:
    """What `work` returns in a child where `folder` is a tmpfs with these options; else skips."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        said = b"?"
        try:
            said = pickle.dumps(work(folder)) if _mounted(folder, options) else _CANNOT
        except BaseException as e:
            said = pickle.dumps(AssertionError(f"{type(e).__name__}: {e}"))
        finally:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(said)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if said == _CANNOT:
        pytest.skip("a file system cannot be mounted here")
    result: T = pickle.loads(said)  # noqa: S301
    if isinstance(result, AssertionError):
        raise result
    return result


def _mounted(folder: Path, options: str) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        return False
    if libc.unshare(_NEWNS | (0 if os.geteuid() == 0 else _NEWUSER)) != 0:
        return False
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None) != 0:
        return False
    path = os.fsencode(folder)
    return bool(libc.mount(b"tmpfs", path, b"tmpfs", ctypes.c_ulong(0), options.encode()) == 0)
