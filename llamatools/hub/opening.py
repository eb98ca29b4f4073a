"""What a user names: something that exists here, or else a repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamatools.errors import BadInput, LlamatoolsError
from llamatools.hub.fetching import Asking
from llamatools.hub.name import DEFAULT_REVISION, RepositoryName, meant, parse_name
from llamatools.hub.repository import open_repository
from llamatools.opening.folder import Folder
from llamatools.text import safe


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextmanager
def here_or_there(source: str, asking: Asking) -> Iterator[Folder | str]:
    """A repository's folder, where `source` names one and nothing of that name is here."""
    here = exists(Path(source))
    name = None if here else named(source)
    if name is None:
        near = None if here else meant(source)
        if near:
            raise BadInput(f"{safe(source)}: no such file or folder", hint=f"did you mean {near}?")
        yield source
        return
    with naming(name):
        yield open_repository(name, asking).folder


def named(source: str) -> RepositoryName | None:
    """The repository that is named by what is not here; BadInput where a path was meant."""
    name = parse_name(source)
    if name is not None and "@" not in source and exists(Path(source).parent):
        # Mistyped far more often than meant, and what is in a path is nobody else's business.
        raise BadInput(
            f"{safe(source)}: no such file or folder in {safe(Path(source).parent)}, which is here",
            hint=f"a hub is asked for {safe(source)}@{DEFAULT_REVISION}",
        )
    return name


@contextmanager
def naming(name: RepositoryName) -> Iterator[None]:
    """Whatever is wrong in here, it is said of which repository."""
    try:
        yield
    except LlamatoolsError as e:
        problems = [p if name.id in p else f"{safe(name)}: {p}" for p in e.problems]
        raise type(e)(problems, hint=e.hint) from None
