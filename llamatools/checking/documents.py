"""llamatools.json and llamatools-delta.json: what they say of the files beside them.

They are held against their own digest first. One that is damaged is still asked what it says, so
that one look finds all that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from llamatools import history, seal
from llamatools.checking.claims import Claim, Expected, Problem, cut, plain_name
from llamatools.checking.hashing import BLAKE3
from llamatools.checking.sources import read_source
from llamatools.checking.tree import Tree
from llamatools.containers.numbers import is_size
from llamatools.deltas import proof
from llamatools.engine.digest import fingerprint
from llamatools.errors import BadInput
from llamatools.jsonio import SETTINGS, load_json_object
from llamatools.manifest import SCHEMA as MANIFEST_SCHEMA
from llamatools.text import safe

_SCHEMAS = {history.NAME: MANIFEST_SCHEMA, proof.NAME: proof.SCHEMA}
_DIGEST = re.compile(r"[0-9a-f]{64}")


def documents(tree: Tree) -> Iterator[Claim]:
    """Of each document of ours that lies there, what it says."""
    for name in _SCHEMAS:
        if name in tree.entries:
            yield _document(tree, name)


def _document(tree: Tree, name: str) -> Claim:
    data = read_source(tree, name, SETTINGS.nbytes)
    if isinstance(data, Problem):
        return Claim(name, (), (data,), complete=True)
    problems, notes = _own(name, data)
    try:
        content = load_json_object(data, name, SETTINGS)
    except BadInput as e:
        problems += [Problem(name, "document", _without(name, p)) for p in e.problems]
        return Claim(name, (), tuple(problems), notes, complete=True)
    read = _Reading(name, content, problems)
    files, stated = tuple(read.files()), read.fingerprint()
    tensors = read.tensors() if name == history.NAME else {}
    if tensors and stated and fingerprint(tensors) != stated:
        text = "its fingerprint is not that of its own tensors"
        read.wrong(text, expected=fingerprint(tensors), found=stated)
    return Claim(
        name,
        files,
        cut(name, "document", problems),
        notes,
        complete=True,
        itself=len(data),
        fingerprint=stated,
        tensors=tensors,
    )


def _own(name: str, data: bytes) -> tuple[list[Problem], tuple[str, ...]]:
    """What its own digest says of it; and notes."""
    if seal.is_older(data):
        return [], (f"{name} has no digest of itself: it was written before there was one",)
    stated, true = seal.digests(data)
    if stated is None:
        text = "does not end in a digest of itself: it was changed or cut"
        return [Problem(name, "digest", text, found=true, by=name)], ()
    if stated != true:
        text = f"BLAKE3 {true[:16]}..., its own digest says {stated[:16]}..."
        return [Problem(name, "digest", text, stated, true, name)], ()
    return [], ()


def _without(name: str, problem: str) -> str:
    return problem.removeprefix(f"{name}: ")


@dataclass(frozen=True)
class _Reading:
    """Takes what is needed from a document; all that makes no sense goes to `problems`."""

    name: str
    content: Mapping[str, object]
    problems: list[Problem]

    def __post_init__(self) -> None:
        found = self.content.get("$schema")
        if found != _SCHEMAS[self.name]:
            self.wrong(f"$schema {safe(found)}, expected {_SCHEMAS[self.name]}")

    def wrong(self, text: str, *, expected: str | None = None, found: str | None = None) -> None:
        self.problems.append(Problem(self.name, "document", text, expected, found, self.name))

    def fingerprint(self) -> str | None:
        found = self.content.get("fingerprint")
        if isinstance(found, str) and _DIGEST.fullmatch(found):
            return found
        self.wrong(f"fingerprint: expected a BLAKE3, found {safe(repr(found), 60)}")
        return None

    def files(self) -> Iterator[Expected]:
        for entry in self._entries("files"):
            name, size, digest = (entry.get(k) for k in ("name", "bytes", "blake3"))
            plain = plain_name(name) if isinstance(name, str) else None
            if plain is None or not is_size(size) or not _is_digest(digest):
                self.wrong(f"files: expected a name, bytes and BLAKE3, found {_short(entry)}")
                continue
            yield Expected(plain, BLAKE3, digest, self.name, size)

    def tensors(self) -> dict[str, str]:
        out: dict[str, str] = {}
        for entry in self._entries("tensors"):
            name, digest = entry.get("name"), entry.get("blake3")
            if not isinstance(name, str) or name in out or not _is_digest(digest):
                self.wrong(f"tensors: expected a new name and a BLAKE3, found {_short(entry)}")
                continue
            out[name] = digest
        return out

    def _entries(self, key: str) -> Iterator[Mapping[str, object]]:
        found = self.content.get(key)
        if not isinstance(found, list) or not found:
            self.wrong(f"{key}: expected a filled array")
            return
        for entry in found:
            if isinstance(entry, dict):
                yield entry
            else:
                self.wrong(f"{key}: expected objects, found {_short(entry)}")


def _is_digest(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _short(value: object) -> str:
    return safe(repr(value), 100)
