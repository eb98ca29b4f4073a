"""Lists of checksums: Meta's checklist.chk, SHA256SUMS and their like.

Read are GNU's lines "HASH  NAME" and "HASH *NAME", BSD's and openssl's "SHA256 (NAME) = HASH", and
the lone hash of a file NAME.sha256. A line that begins with a backslash has a name with escapes.
GNU's two characters before a name are all that is not of it: a name may begin with a blank or a
star. Only where no such file is there, such a name is taken to be one in columns.
Which digest a hash is goes by its length (Meta's checklists hold MD5, some of others SHA-256),
unless the line or the list's own name says it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from llamatools.checking.claims import Claim, Expected, Problem, cut, plain_name
from llamatools.checking.hashing import BLAKE3, BY_DIGITS, Algorithm
from llamatools.checking.lines import Lines, decoded
from llamatools.checking.sources import read_source
from llamatools.checking.tree import Tree
from llamatools.errors import BadInput
from llamatools.text import safe

_MOST_BYTES = 16_000_000
_MOST_LINES = 100_000

_KIND = r"(md5|sha-?(1|224|256|384|512)|b3|blake3|check(?=.?sum))"
_NAMES = re.compile(rf".+\.(chk|{_KIND}(sums?)?)|{_KIND}[-_]?sums?(\.txt)?", re.IGNORECASE)
_B3 = re.compile(r"(^|[._-])(b3|blake3)", re.IGNORECASE)
_GNU = re.compile(
    r"(?P<escaped>\\?)(?P<hash>[0-9A-Fa-f]{32,128})"
    r"( [ *](?P<name>[ \t]*[^ \t].*)|[ \t]+\*?(?P<loose>[^ \t].*))",
    re.DOTALL,
)
_BSD = re.compile(
    r"(?P<escaped>\\?)(?P<tag>[A-Za-z][\w/-]*) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)",
    re.ASCII | re.DOTALL,
)
_PIPED = re.compile(
    r"[0-9A-Fa-f]{32,128}[ \t]+\*?-|[A-Za-z][\w/-]* ?\(-\) ?= ?[0-9A-Fa-f]+", re.ASCII
)
"""Of what had no name: the program read it from standard input."""
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
    try:
        lines = Lines(decoded(data).split("\n"))
    except BadInput as e:
        return Claim(name, (), (Problem(name, "list", str(e)),))
    if len(lines.every) > _MOST_LINES:
        return Claim(name, (), (Problem(name, "list", f"more than {_MOST_LINES:,} lines"),))
    if lines.cut:
        problems.append(Problem(name, "list", "its signature is cut: lines may be, too"))
    elif lines.signed:
        notes.append(f"{safe(name)} is signed; by whom, gpg --verify tells")
    for number, text in lines:
        if not text.strip() or text.startswith(("#", ";")):
            continue
        if _PIPED.fullmatch(text) and _beside(name, "-") not in tree.entries:
            notes.append(f"{safe(name)} has a digest of what was piped, which is no file")
            continue
        found = _line(text, name)
        if found is None:
            problems.append(
                Problem(name, "list", f"line {number} is no checksum: {safe(text, 80)}")
            )
        elif isinstance(found, str):
            problems.append(Problem(name, "list", f"line {number}: {found}"))
        else:
            files[found] = None
    names = {f.name for f in files}
    files = {_as_it_lies(f, tree, names): None for f in files}
    itself = [f for f in files if f.name == name]
    if itself:
        notes.append(f"{safe(name)} lists itself, which no list can")
        files = {f: None for f in files if f.name != name}
    if not files and not problems:
        notes.append(f"{safe(name)} lists nothing")
    return Claim(name, tuple(files), cut(name, "list", problems), tuple(dict.fromkeys(notes)))


def _as_it_lies(f: Expected, tree: Tree, listed: Collection[str]) -> Expected:
    """The same with the name that its file has, where no file has the very name."""
    if f.name in tree.entries:
        return f
    own = f.name.removeprefix(_beside(f.by, ""))
    bare = plain_name(own.lstrip(" \t").removeprefix("*"))
    for name in (bare and _beside(f.by, bare), tree.spelt(f.name)):
        if name and name in tree.entries and name not in listed:
            return replace(f, name=name)
    return f


def _beside(by: str, name: str) -> str:
    """A name in the folder that a list lies in."""
    home = by.rpartition("/")[0]
    return f"{home}/{name}" if home else name


def _line(text: str, by: str) -> Expected | str | None:
    """What one line says; what is wrong with it; or None where it says nothing that is known."""
    own = by.rpartition("/")[2]
    match = _BSD.fullmatch(text) or _GNU.fullmatch(text)
    if match is not None:
        groups = match.groupdict()
        name = groups["name"] or groups.get("loose", "")
        digest, tag = match["hash"], groups.get("tag")
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
    return Expected(_beside(by, plain), algorithm, digest.lower(), by)


def _algorithm(digest: str, tag: str | None, own: str) -> Algorithm | None:
    if tag is None:
        is_b3 = len(digest) == BLAKE3.digits and _B3.search(own)
        return BLAKE3 if is_b3 else BY_DIGITS.get(len(digest))
    word = re.sub("[-_/]", "", tag.upper())
    if word == "BLAKE3":
        return BLAKE3 if len(digest) == BLAKE3.digits else None
    return BY_DIGITS.get(len(digest)) if _TAGS.get(word) == len(digest) else None
