"""Which adapters a checkpoint's weights hold already, as its manifest says."""

from __future__ import annotations

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
