"""Names given in one step: renameat2, and what does without it where a file system must."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from llamatools.engine.newfile import io_failed
from llamatools.errors import OutputExists
from llamatools.text import safe

NOREPLACE = 1
EXCHANGE = 2
_AT_FDCWD = -100
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_libc = ctypes.CDLL(None, use_errno=True)
DOING = "renaming the finished output"


def exchange(new: Path, target: Path) -> bool:
    """Each gets the other's name; False where the file system cannot do that."""
    return _flagged(new, target, EXCHANGE)


def place(new: Path, target: Path) -> None:
    """Rename to a name that must be free."""
    if not _flagged(new, target, NOREPLACE):
        if there(target):
            raise _taken(target)
        move(new, target)


def move(old: Path, new: Path) -> None:
    """A plain rename."""
    try:
        os.rename(old, new)  # noqa: PTH104
    except OSError as e:
        if e.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _taken(new) from e
        raise io_failed(new, DOING, e) from e


def there(path: Path) -> bool:
    """Whether anything has the name. IOFailed where the system does not say."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise io_failed(path, "looking at it", e) from e
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as e:
        if e.errno != errno.EINVAL:  # of file systems that know no fsync of folders
            raise io_failed(folder, "fsync", e) from e


def _flagged(old: Path, new: Path, flag: int) -> bool:
    """False where the system or the file system does not know the flag."""
    code = _renameat2(os.fsencode(old), os.fsencode(new), flag)
    if code == 0:
        return True
    if code in _UNKNOWN:
        return False
    if code == errno.EEXIST:
        raise _taken(new)
    raise io_failed(new, DOING, OSError(code, os.strerror(code)))


def _renameat2(old: bytes, new: bytes, flag: int) -> int:
    """0, or the number of the error."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        return errno.ENOSYS
    while call(_AT_FDCWD, old, _AT_FDCWD, new, flag) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            return code
    return 0


def _taken(name: Path) -> OutputExists:
    return OutputExists(f"{safe(name)} exists already", hint="choose another name")
