"""What a hub said of the files that were downloaded from it.

Its cache names each blob after the file's digest, and a snapshot's files are links to blobs; a
download into a folder leaves the same digests below .cache/huggingface/download. A digest of 64
digits is a SHA-256 (large files), one of 40 the name that git gives to a blob.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llamatools.checking.claims import Claim, Expected, Problem
from llamatools.checking.hashing import GIT, SHA256, Algorithm
from llamatools.checking.sources import read_source
from llamatools.checking.tree import Kind, Tree, look
from llamatools.errors import BadInput
from llamatools.opening.folder import scan
from llamatools.opening.weightfiles import SCHEMES, weight_files
from llamatools.text import safe

CACHE = "the hub's cache"
DOWNLOADS = ".cache/huggingface/download"
_SUFFIX = ".metadata"
_MOST = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def downloads(tree: Tree) -> Iterator[Claim]:
    """What the cache that the folder is a snapshot in says, and what was noted in the folder."""
    cached = tuple(
        Expected(name, _algorithm(entry.target.name), entry.target.name, CACHE)
        for name, entry in sorted(tree.entries.items())
        if entry.target is not None and _DIGEST.fullmatch(entry.target.name)
    )
    if cached:
        yield Claim(CACHE, cached, _gaps(tree))
    noted, problems = _noted(tree)
    if noted or problems:
        yield Claim(DOWNLOADS, noted, (*problems, *_gaps(tree)))


def _algorithm(digest: str) -> Algorithm:
    return SHA256 if len(digest) == SHA256.digits else GIT


def _noted(tree: Tree) -> tuple[tuple[Expected, ...], tuple[Problem, ...]]:
    """The digests beside a download, each in the second line of a small file."""
    where = tree.path
    for part in DOWNLOADS.split("/"):
        where = where / part
        if where.is_symlink() or not where.is_dir():
            return (), ()
    found, problems = [], []
    notes = look(where)
    for name in notes.files():
        if not name.endswith(_SUFFIX):
            continue
        data = read_source(notes, name, _MOST)
        if isinstance(data, Problem):
            problems.append(Problem(f"{DOWNLOADS}/{name}", data.kind, data.text))
            continue
        lines = data.decode(errors="replace").split("\n")
        digest = lines[1].strip().strip('"') if len(lines) > 1 else ""
        if _DIGEST.fullmatch(digest):
            plain = name.removesuffix(_SUFFIX)
            found.append(Expected(plain, _algorithm(digest), digest, DOWNLOADS))
        else:
            text = f"expected a digest in line 2, found {safe(repr(digest), 80)}"
            problems.append(Problem(f"{DOWNLOADS}/{name}", "document", text))
    return tuple(found), tuple(problems)


def _gaps(tree: Tree) -> tuple[Problem, ...]:
    """Weight files that others name, and that were never fetched."""
    names = [n for n, e in tree.entries.items() if e.kind is not Kind.FOLDER and "/" not in n]
    if not weight_files(names) and not {s.index for s in SCHEMES} & set(names):
        return ()
    try:
        scan(tree.path).weights  # noqa: B018
    except BadInput as e:
        where = f"{safe(tree.path)}"
        return tuple(
            Problem(".", "incomplete", p.removeprefix(f"{where}: ").removeprefix(f"{where}/"))
            for p in e.problems
        )
    return ()
