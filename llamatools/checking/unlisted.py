"""Files that nobody speaks of: which may change what is loaded, and which are harmless.

A document of ours names every file that was written. Whatever else lies beside it was added, and
only what is known to be harmless passes: any other may be a config, a template, code, an adapter,
or weights that some program prefers to the ones that were checked. That holds in folders below,
too: programs are told to load from there, or look by themselves. A list of checksums may leave
files out; there only weights must be in some list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llamatools.checking.claims import Claim, Problem
from llamatools.checking.lists import is_list
from llamatools.checking.tree import Kind, Tree
from llamatools.opening.weightfiles import ENDINGS

_HARMLESS = re.compile(
    r"(README|LICEN[CS]E|NOTICE|USE_POLICY|CHANGELOG|CITATION|COPYING)([-_ ][\w -]*)?"
    r"|\.git(attributes|ignore|keep|modules)|\.DS_Store|Thumbs\.db"
    r"|(?!vocab|merges|.*token)[^/]+\.txt"
    r"|[^/]+\.(md|rst|pdf|html?|cff|bib|csv|png|jpe?g|gif|svg|webp|log|asc|sig|gpg|pem)",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_WEIGHTS = (*ENDINGS, ".gguf", ".ggml", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".pkl")
_LOADED = (
    *_WEIGHTS, ".json", ".jinja", ".model", ".py", ".pyc", ".so", ".tiktoken", ".txt", ".yaml",
)  # fmt: skip
"""What a folder may not be named like: where such a file is looked for, it would be found."""


def unlisted(tree: Tree, claims: Sequence[Claim]) -> tuple[list[Problem], list[str]]:
    """Files that must not be there, or that nothing vouches for; and the names of harmless ones."""
    ours = [c for c in claims if c.complete]
    if any(not c.files for c in ours):
        return [], []  # a document that cannot be read might have had any of them
    listed = {f.name for c in ours or claims for f in c.files} | {c.by for c in claims}
    homes = {""} | {_home(f.name) for c in claims for f in c.files}
    unnamed = [name for name in sorted(tree.entries) if name not in listed]
    wrong = {n for n in unnamed if _counts(n, tree, inside=_home(n) in homes, ours=bool(ours))}
    # A folder is told as one, unless it holds what is spoken of, or wrong.
    opened = _folders((*(f.name for c in claims for f in c.files), *wrong), tree)
    others = [
        f"{name}/" if tree.entries[name].kind is Kind.FOLDER else name
        for name in unnamed
        if name not in wrong and name not in opened and _home(name) in opened
    ]
    return [_problem(name, tree, ours) for name in unnamed if name in wrong], others


def _home(name: str) -> str:
    return name.rpartition("/")[0]


def _folders(names: Iterable[str], tree: Tree) -> set[str]:
    """All that the names lie in, from the top down, as far as they are there."""
    out = {""}
    for name in names:
        end = name.find("/")
        while end >= 0 and name[:end] in tree.entries:
            out.add(name[:end])
            end = name.find("/", end + 1)
    return out


def _counts(name: str, tree: Tree, *, inside: bool, ours: bool) -> bool:
    """`inside`: in a folder of which some source speaks; `ours`: that source is a document."""
    own = name.rpartition("/")[2].lower()
    is_folder = tree.entries[name].kind is Kind.FOLDER
    if not ours:
        return inside and not is_folder and own.endswith(_WEIGHTS)
    harmless = _HARMLESS.fullmatch(own) is not None or is_list(own)
    return not harmless and (not is_folder or own.endswith(_LOADED))


def _problem(name: str, tree: Tree, ours: Sequence[Claim]) -> Problem:
    if not ours:
        return Problem(name, "unlisted", "weights that no list has a digest of")
    kind, by = tree.entries[name].kind, " or ".join(c.by for c in ours)
    what = "" if kind in (Kind.FILE, Kind.BLOB) else f" and is {kind.value}"
    return Problem(name, "added", f"was added{what}: {by} does not have it", by=ours[0].by)
