"""Which adapters and deltas a checkpoint's weights hold already, as its manifest says."""

from __future__ import annotations

from collections.abc import Iterable

from llamatools.errors import BadInput
from llamatools.opening.folder import Folder

NAME = "llamatools.json"
"""The manifest's."""


def merged_before(folder: Folder) -> list[str]:
    """Digests of adapters, in order. A manifest that cannot be read says nothing."""
    if NAME not in folder.names:
        return []
    try:
        manifest = folder.json(NAME)
    except BadInput:
        return []
    merge, source = manifest.get("merge"), manifest.get("source")
    earlier = source.get("adapters") if isinstance(source, dict) else None
    mine = merge.get("adapters") if isinstance(merge, dict) else None
    entries = mine if isinstance(mine, list) else []
    digests = [*(earlier if isinstance(earlier, list) else [])]
    digests += [e.get("blake3") for e in entries if isinstance(e, dict)]
    return [d for d in digests if isinstance(d, str)]


def check_new(folder: Folder, things: Iterable[tuple[str, str]]) -> None:
    """BadInput where a base holds something already, or it is given twice: (its name, digest)."""
    known = set(merged_before(folder))
    problems = []
    for what, digest in things:
        if digest in known:
            problems.append(f"{what} is merged already")
        known.add(digest)
    if problems:
        raise BadInput(problems, hint="--allow-again merges it once more")
