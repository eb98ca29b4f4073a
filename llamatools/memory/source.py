"""From what the user names to a model: a checkpoint, a bare config, a repository, or a name.

Only names, headers and configs are read; no tensor data.
"""

from __future__ import annotations

from pathlib import Path

from llamatools.errors import BadInput
from llamatools.hub.fetching import SILENT, Asking
from llamatools.hub.name import meant
from llamatools.hub.opening import exists
from llamatools.hub.opening import named as named_repository
from llamatools.memory import registry
from llamatools.memory.config import read_config_file
from llamatools.memory.folders import of_folder
from llamatools.memory.formats import of_config
from llamatools.memory.parameters import weights
from llamatools.memory.repositories import of_repository
from llamatools.memory.subject import Subject, described
from llamatools.opening.folder import scan
from llamatools.text import safe


def read_subject(source: str, asking: Asking = SILENT) -> Subject:
    """The subject that `source` names. What exists as a file or folder is never taken as a name.

    Where `source` has the form of a repository's name, the hub is asked; `asking` is told.
    """
    path = Path(source)
    if not exists(path):
        return _by_name(source, asking)
    folder = scan(path)
    if path.name.endswith(".json") and not path.is_dir():
        return described(source, read_config_file(path.name, folder.json(path.name)))
    return of_folder(folder, source)


def _by_name(source: str, asking: Asking) -> Subject:
    named = registry.by_name(source)
    if named is not None:
        fmt = of_config(None)
        every = weights(named.architecture, fmt)
        return Subject("name", named.key, named.title, named.key, named.architecture, fmt, every)
    repository = named_repository(source)
    if repository is not None:
        return of_repository(repository, source, asking)
    nothing = f"{safe(source)}: no such file or folder, nor the name of a released model"
    address = meant(source)
    if address is not None:
        raise BadInput(nothing, hint=f"did you mean {address}?")
    near = registry.alike(source)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise BadInput(nothing, hint=f"{hint}names are {', '.join(registry.names())}")
