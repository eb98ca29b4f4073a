"""Files that open() gives, made to go through the functions of `os`, which are watched."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

_MODES = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


class _File(io.FileIO):
    """As io.FileIO, whose own calls nobody sees."""

    def __init__(self, file: Any, mode: str, closefd: bool) -> None:
        self._mine = closefd
        self._fd = -1
        if isinstance(file, int):
            self._fd = file
        else:
            flags = _MODES[mode[0]]
            if "+" in mode:
                flags = flags & ~os.O_WRONLY | os.O_RDWR
            self._fd = os.open(file, flags | os.O_CLOEXEC, 0o666)
        try:
            super().__init__(self._fd, mode, closefd=False)
        except BaseException:
            self.close()
            raise
        self.name = file

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def readinto(self, buffer: Any) -> int:
        return os.readv(self.fileno(), [buffer])

    def read(self, size: int | None = -1) -> bytes:
        return self.readall() if size is None or size < 0 else os.read(self.fileno(), size)

    def readall(self) -> bytes:
        out = bytearray()
        while piece := os.read(self.fileno(), 1 << 16):
            out += piece
        return bytes(out)

    def close(self) -> None:
        super().close()  # which leaves the descriptor alone
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._mine:
            os.close(fd)


def opener_for(real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True,
        opener: Any = None,
    ) -> Any:  # fmt: skip
        if opener is not None:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("b", "").replace("t", "")
        raw = _File(file, raw_mode, closefd)
        if buffering == 0:
            return raw
        kind: Any = io.BufferedReader if raw_mode == "r" else io.BufferedWriter
        buffered = (io.BufferedRandom if "+" in mode else kind)(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    return opened
