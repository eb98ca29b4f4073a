"""Documents of ours prove themselves: the last field is the BLAKE3 of all the rest.

`"digest"` is the BLAKE3 of the file as it would be without that field: without the bytes from the
comma before it to its last quote. So whoever has the file needs no JSON to compute it, and no byte
is left out:

    perl -0pe 's/,\\n  "digest": "[0-9a-f]{64}"//' llamatools.json | b3sum

Files from before there was a digest end in a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from blake3 import blake3

from llamatools.jsonio import dump_json

FIELD = "digest"
_END = b"\n}\n"
_SEAL = re.compile(rb',\n  "digest": "([0-9a-f]{64})"\n}\n\Z')
_OLDER = re.compile(rb"\]\n}\n\Z")


def sealed(document: Mapping[str, object]) -> dict[str, object]:
    """The document with its digest, which holds in the form that `dump_json` gives it."""
    rest = {key: value for key, value in document.items() if key != FIELD}
    return {**rest, FIELD: blake3(dump_json(rest)).hexdigest()}


def is_older(data: bytes) -> bool:
    """Whether a file has no digest and never had one; one that is damaged ends otherwise."""
    return _OLDER.search(data) is not None


def digests(data: bytes) -> tuple[str | None, str]:
    """The digest that a file says it has, None where none can be made out, and the true one."""
    found = _SEAL.search(data, max(0, len(data) - 100))
    if found is None:
        return None, blake3(data).hexdigest()
    return found[1].decode(), blake3(data[: found.start()] + _END).hexdigest()
