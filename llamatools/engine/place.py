"""Where output is built: a folder beside it, under a lock, that is gone when the run is over.

    .NAME.llamatools/lock       held while a run is at work
                     journal    what is finished, see journal.py
                     output     what becomes NAME
                     old        what NAME was, between two renames (publish.py)

The name follows from the output's: so a second run finds the first one at work, or what it left.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

from blake3 import blake3

from llamatools.engine import journal, lock, rename
from llamatools.engine.newfile import io_failed
from llamatools.engine.removing import empty, listed, remove, surely
from llamatools.engine.words import say
from llamatools.errors import IOFailed, Kept, LlamatoolsError, OutputExists
from llamatools.text import listing, safe

LOCK, JOURNAL, OUTPUT, OLD = lock.NAME, journal.NAME, "output", "old"
_END = ".llamatools"
_ATTEMPTS = 100
_NAMES = {LOCK, JOURNAL, journal.NEW, OUTPUT, OLD}


def place_of(out: Path) -> Path:
    """Where the output is built; its name is cut where a file system takes no longer ones."""
    parent, name = out.parent.resolve(), os.fsencode(out.name)
    longest = os.pathconf(parent, "PC_NAME_MAX") - len(f".{_END}")
    if len(name) > longest:
        tail = b"-" + blake3(name).hexdigest()[:8].encode()
        head = name[: longest - len(tail)].decode(errors="ignore")  # no half characters
        name = os.fsencode(head) + tail
    return parent / f".{os.fsdecode(name)}{_END}"


def is_place(name: str) -> bool:
    """Whether a name has the form of those in which output is built."""
    return name.startswith(".") and name.endswith(_END)


def check_free(out: Path, *, force: bool) -> None:
    """OutputExists where the output's name is taken."""
    if rename.there(out) and not force:
        raise OutputExists(f"{safe(out)} exists already", hint="choose another name, or --force")


def refuse_taken(out: Path, *, force: bool) -> None:
    """The same; and where the run that published it was stopped before it had tidied up, that is
    done now."""
    home = place_of(out)
    left = set(listed(home))
    if OUTPUT in left and not listed(home / OUTPUT):  # whose one file has become the output
        left.remove(OUTPUT)
    if rename.there(out) and not force and not {OUTPUT, OLD} & left and home.exists():
        with suppress(LlamatoolsError), occupied(out, force=True) as place:
            place.clear()
    check_free(out, force=force)


class Unsure(IOFailed):
    """The output has its name, but whether that lasts is not known."""

    replaced = False
    """Whether the place holds what had the name before; it stays there."""


class Lost(IOFailed):
    """The place is not this run's any more."""


class Place:
    """The folder of a run that has locked it."""

    def __init__(self, out: Path, home: Path, held: lock.Lock) -> None:
        self.out = out
        self.home = home
        self.folder = home / OUTPUT
        self.journal = journal.Journal(home / JOURNAL)
        self.kept: Kept | None = None
        """What is finished, and stays if the run is cut short."""
        self._target = home.parent / out.name
        self._lock = held
        self._begun = False
        self._made: os.stat_result | None = None

    def check(self) -> None:
        """IOFailed where the folder, or its lock, was removed under the run: what is there now may
        be another run's."""
        if not self._ours():
            raise Lost(
                f"{safe(self.home)}: was removed while {safe(self.out)} was made in it; nothing "
                "was published",
                hint="run the same command again",
            )

    def _ours(self) -> bool:
        if not self._lock.holds():
            return False
        try:
            there = self.folder.lstat()
        except OSError:
            return self._made is None
        return self._made is None or os.path.samestat(self._made, there)

    def clear(self) -> None:
        """Nothing of an earlier run, and an empty folder for the output."""
        self._begun = True
        try:
            empty(self.home, {LOCK})
            self.folder.mkdir()
            self._made = self.folder.lstat()
        except OSError as e:
            raise io_failed(self.folder, "creating the folder", e) from e

    def keep(self, names: Collection[str]) -> None:
        """Of an earlier run the journal, and these files of its output."""
        self._begun = True
        try:
            empty(self.home, {LOCK, JOURNAL, OUTPUT})
            empty(self.folder, names)
            self._made = self.folder.lstat()
        except OSError as e:
            raise io_failed(self.folder, "removing what is not finished", e) from e

    def remove(self, names: Collection[str]) -> None:
        """Files of the output that are no good."""
        try:
            for name in names:
                remove(self.folder / name)
        except OSError as e:
            raise io_failed(self.folder, "removing what is not finished", e) from e

    def leave(self, error: BaseException | None) -> None:
        """Remove everything; after an interruption, all but what is finished. What an earlier run
        left and nobody has looked at stays as it is; and so does what another run may have made."""
        if isinstance(error, Lost) or not self._lock.holds():
            self._lock.release()
            return
        kept = self.kept if error is not None and _cut_short(error) and self._lock.sure else None
        try:
            if kept and error is not None:
                error.__dict__["kept"] = kept
                surely(lambda: empty(self.folder, kept.names, gently=True))
            elif self._begun:
                former = isinstance(error, Unsure) and error.replaced
                surely(lambda: self._wipe({LOCK, OUTPUT, OLD} if former else {LOCK}))
        finally:
            self.go()

    def _wipe(self, but: Collection[str]) -> None:
        remove(self.home / JOURNAL, gently=True)  # nothing is to claim what is half removed
        kept = {*but, OLD}  # until it is known that the output has its name
        with suppress(LlamatoolsError):
            self.recover()
            kept = {*but}
        empty(self.home, kept, gently=True)

    def go(self) -> None:
        """Unlock the folder, which goes as well unless there is something in it."""
        surely(self._go)

    def _go(self) -> None:
        if self._lock.holds() and listed(self.home) == [LOCK]:
            self._lock.remove()
            with suppress(OSError):  # the next run may be in it already
                self.home.rmdir()
        self._lock.release()

    def recover(self) -> None:
        """Give an output back its name that was lost between two renames."""
        if self._lost():
            rename.place(self.home / OLD, self._target)
            rename.sync_folder(self.home.parent)
            say(f"{safe(self.out)}: to be replaced by a run that was cut short; it is back")

    def _lost(self) -> bool:
        old = self.home / OLD
        folder = rename.there(old) and S_ISDIR(old.lstat().st_mode)
        return folder and not rename.there(self._target)


@contextmanager
def occupied(out: Path, *, force: bool = False) -> Iterator[Place]:
    """The output's place, with whatever an earlier run left there; it goes when this is over.

    OutputExists where another run is in it, or published the output a moment ago.
    """
    place = Place(out, *_enter(out))
    try:
        place.recover()
        check_free(out, force=force)
    except BaseException:
        place.go()
        raise
    _at_work[place.folder] = place
    try:
        yield place
    except BaseException as e:
        _at_work.pop(place.folder, None)  # before another run may be in there
        place.leave(e)
        raise
    _at_work.pop(place.folder, None)
    place.leave(None)


_at_work: dict[Path, Place] = {}
"""The places that this process is in, by the folders that become outputs."""


def check_held(folder: Path) -> None:
    """IOFailed where a folder that is about to be published is not this run's any more."""
    if folder in _at_work:
        _at_work[folder].check()


@contextmanager
def staging(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder for the output, or for the one file that it is; never kept."""
    with occupied(out, force=force) as place:
        place.clear()
        yield place.folder


def _enter(out: Path) -> tuple[Path, lock.Lock]:
    home, made = place_of(out), False
    try:
        for _ in range(_ATTEMPTS):
            made = _made(home)
            held = lock.take(home, out, made=made)
            if held is not None:
                return home, held
    except OutputExists:
        raise
    except BaseException:
        _withdraw(home, out, made=made)
        raise
    raise IOFailed(f"{safe(home)}: cannot be locked", hint="choose another disk for the output")


def _withdraw(home: Path, out: Path, *, made: bool) -> None:
    """Undo a half-done entry, unless another run has come in meanwhile."""
    with suppress(OutputExists, OSError):
        try:
            held = lock.take(home, out, made=True)
            if held is not None:
                Place(out, home, held).go()
        except IOFailed:  # where nothing can be locked, nobody has
            if made and listed(home) == [LOCK]:
                (home / LOCK).unlink()
        home.rmdir()  # which fails unless it is empty


def _made(home: Path) -> bool:
    """Whether the folder is new; OutputExists where it is none, or somebody else's."""
    try:
        home.mkdir(0o700)
        return True
    except FileExistsError:
        pass
    except OSError as e:
        raise io_failed(home, "creating the folder", e) from e
    try:
        info = os.lstat(home)
    except FileNotFoundError:
        return False  # it went; so does the lock, and it is tried again
    except OSError as e:
        raise io_failed(home, "looking at the folder", e) from e
    if not S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise OutputExists(
            f"{safe(home)} is in the way: not a folder, or somebody else's",
            hint="remove it, or choose another name for the output",
        )
    strange = sorted(set(listed(home)) - _NAMES)
    if strange:
        raise OutputExists(
            f"{safe(home)} is in the way: no run of llamatools left {listing(strange)} in it",
            hint="rename it, or choose another name for the output",
        )
    return False


def _cut_short(error: BaseException) -> bool:
    """Whether the same command may come further the next time."""
    if isinstance(error, Exception):
        return isinstance(error, (IOFailed, OSError, MemoryError)) and not isinstance(error, Unsure)
    return True
