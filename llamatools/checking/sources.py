"""Small files that say what other files are, read whole."""

from __future__ import annotations

from llamatools.checking.claims import Problem, unreadable
from llamatools.checking.tree import Tree
from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, IOFailed
from llamatools.text import nbytes


def read_source(tree: Tree, name: str, most: int) -> bytes | Problem:
    """All of a file of at most `most` bytes, or why it cannot be had."""
    entry = tree.entries[name]
    if not entry.readable:
        return Problem(name, "not-a-file", f"is {entry.kind.value}, expected a file")
    try:
        file = InputFile(tree.path / name)
    except (BadInput, IOFailed) as e:
        return unreadable(name, tree.path / name, e)
    try:
        if file.size > most:
            return Problem(name, "document", f"{nbytes(file.size)}, more than {nbytes(most)}")
        return file.read(0, file.size)
    except (BadInput, IOFailed) as e:
        return unreadable(name, tree.path / name, e)
    finally:
        file.close()
