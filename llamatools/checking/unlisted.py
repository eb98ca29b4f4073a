"""Files that nobody speaks of: which may change what is loaded, and which are harmless.

A document of ours names every file that was written. Whatever else lies beside it was added, and
only what is known to be harmless passes: any other may be a config, a template, code, an adapter,
or weights that some program prefers to the ones that were checked. A list of checksums may leave
files out; there only weights must be in some list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_LOADED_BELOW = (".py", ".jinja")
"""Programs load such from folders within a checkpoint's as well."""


def unlisted(tree: Tree, claims: Sequence[Claim]) -> tuple[list[Problem], list[str]]:
    """Files that must not be there, or that nothing vouches for; and the names of harmless ones."""
    ours = [c for c in claims if c.complete]
    if any(not c.files for c in ours):
        return [], []  # a document that cannot be read might have had any of them
    listed = {f.name for c in ours or claims for f in c.files} | {c.by for c in claims}
    homes = {""} | {_home(f.name) for c in claims for f in c.files}
    problems: list[Problem] = []
    others: dict[str, None] = {}
    for name in sorted(tree.entries):
        home = _home(name)
        if name in listed:
            continue
        if tree.entries[name].kind is Kind.FOLDER:
            if home in homes and not any(h == name or h.startswith(f"{name}/") for h in homes):
                others[f"{name}/"] = None
        elif _counts(name, inside=home in homes, ours=bool(ours)):
            problems.append(_problem(name, tree, ours))
        elif home in homes:
            others[name] = None
    return problems, list(others)


def _home(name: str) -> str:
    return name.rpartition("/")[0]


def _counts(name: str, *, inside: bool, ours: bool) -> bool:
    """`inside`: in a folder of which some source speaks; `ours`: that source is a document."""
    own = name.rpartition("/")[2].lower()
    if not ours:
        return inside and own.endswith(_WEIGHTS)
    if not inside:
        return own.endswith(_LOADED_BELOW)
    return not (_HARMLESS.fullmatch(own) or is_list(own))


def _problem(name: str, tree: Tree, ours: Sequence[Claim]) -> Problem:
    if not ours:
        return Problem(name, "unlisted", "weights that no list has a digest of")
    kind, by = tree.entries[name].kind, " or ".join(c.by for c in ours)
    what = "" if kind in (Kind.FILE, Kind.BLOB) else f", is {kind.value},"
    return Problem(name, "added", f"was added{what}: {by} does not have it", by=ours[0].by)
