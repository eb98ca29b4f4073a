"""Lists of checksums: Meta's checklist.chk, SHA256SUMS and their like.

Read are GNU's lines "HASH  NAME" and "HASH *NAME", BSD's and openssl's "SHA256 (NAME) = HASH", and
the lone hash of a file NAME.sha256. A line that begins with a backslash has a name with escapes.
Which digest a hash is goes by its length (Meta's checklists hold MD5, some of others SHA-256),
unless the line or the list's own name says it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from llamatools.checking.claims import Claim, Expected, Problem, cut, plain_name
from llamatools.checking.hashing import BLAKE3, BY_DIGITS, Algorithm
from llamatools.checking.sources import read_source
from llamatools.checking.tree import Tree
from llamatools.text import safe

_MOST_BYTES = 16_000_000
_MOST_LINES = 100_000

_KIND = r"(md5|sha-?(1|224|256|384|512)|b3|blake3|check(?=.?sum))"
_NAMES = re.compile(rf".+\.(chk|{_KIND}(sums?)?)|{_KIND}[-_]?sums?(\.txt)?", re.IGNORECASE)
_B3 = re.compile(r"(^|[._-])(b3|blake3)", re.IGNORECASE)
_GNU = re.compile(
    r"(?P<escaped>\\?)(?P<hash>[0-9A-Fa-f]{32,128})[ \t]+\*?(?P<name>[^ \t].*)", re.DOTALL
)
_BSD = re.compile(
    r"(?P<escaped>\\?)(?P<tag>[A-Za-z][\w/-]*) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)",
    re.ASCII | re.DOTALL,
)
_LONE = re.compile(r"[0-9A-Fa-f]{32,128}")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_TAGS = {
    "MD5": 32, "SHA1": 40, "SHA224": 56, "SHA256": 64, "SHA384": 96, "SHA512": 128,
    "SHA2224": 56, "SHA2256": 64, "SHA2384": 96, "SHA2512": 128,
}  # fmt: skip
"""Without the dashes that some have."""


def is_list(name: str) -> bool:
    """Whether a file of this name is read as a list of checksums."""
    return _NAMES.fullmatch(name.rpartition("/")[2]) is not None


def lists(tree: Tree) -> Iterator[Claim]:
    """What every list in the folder, or right below it, says of the files beside it."""
    for name in tree.files():
        if name.count("/") < 2 and is_list(name):
            yield _list(tree, name)


def _list(tree: Tree, name: str) -> Claim:
    data = read_source(tree, name, _MOST_BYTES)
    if isinstance(data, Problem):
        return Claim(name, (), (data,))
    files: dict[Expected, None] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    lines = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
    if len(lines) > _MOST_LINES:
        return Claim(name, (), (Problem(name, "list", f"more than {_MOST_LINES:,} lines"),))
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r")
        if not text.strip() or text.startswith(("#", ";")):
            continue
        found = _line(text, name)
        if found is None:
            problems.append(
                Problem(name, "list", f"line {number} is no checksum: {safe(text, 80)}")
            )
        elif isinstance(found, str):
            problems.append(Problem(name, "list", f"line {number}: {found}"))
        elif found.name == name:
            notes.append(f"{safe(name)} lists itself, which no list can")
        else:
            files[found] = None
    if not files and not problems:
        notes.append(f"{safe(name)} lists nothing")
    return Claim(name, tuple(files), cut(name, "list", problems), tuple(dict.fromkeys(notes)))


def _line(text: str, by: str) -> Expected | str | None:
    """What one line says; what is wrong with it; or None where it says nothing that is known."""
    home, _, own = by.rpartition("/")
    match = _BSD.fullmatch(text) or _GNU.fullmatch(text)
    if match is not None:
        name, digest = match["name"], match["hash"]
        tag = match.groupdict().get("tag")
    elif _LONE.fullmatch(text.strip()) and not own.lower().endswith((".txt", ".chk")):
        name, digest, tag = own.rpartition(".")[0], text.strip(), None  # "" of SHA256SUMS
    else:
        return None
    if match is not None and match["escaped"]:
        name = re.sub(r"\\[\\nr]", lambda m: _ESCAPES[m[0]], name)
    algorithm = _algorithm(digest, tag, own)
    if algorithm is None:
        return f"{len(digest)} digits are no checksum that is known: {safe(text, 80)}"
    plain = plain_name(name)
    if plain is None:
        return f"expected the name of a file in the folder, found {safe(name, 80)}"
    return Expected(f"{home}/{plain}" if home else plain, algorithm, digest.lower(), by)


def _algorithm(digest: str, tag: str | None, own: str) -> Algorithm | None:
    if tag is None:
        is_b3 = len(digest) == BLAKE3.digits and _B3.search(own)
        return BLAKE3 if is_b3 else BY_DIGITS.get(len(digest))
    word = re.sub("[-_/]", "", tag.upper())
    if word == "BLAKE3":
        return BLAKE3 if len(digest) == BLAKE3.digits else None
    return BY_DIGITS.get(len(digest)) if _TAGS.get(word) == len(digest) else None
