"""llamatools-delta.json: what a delta of ours is, what it belongs to, and what must come out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.containers.numbers import is_shape, is_size
from llamatools.deltas.kinds import TO_MAKE, XOR, ZEROS
from llamatools.dtypes import BY_NAME, DType
from llamatools.errors import BadInput
from llamatools.expr.nodes import Expr
from llamatools.jsonfields import Fields
from llamatools.opening.folder import Folder
from llamatools.text import listing, safe

NAME = "llamatools-delta.json"
SCHEMA = "urn:llamatools:delta:1"

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Promised:
    """One tensor of the result."""

    dtype: DType
    shape: tuple[int, ...]
    blake3: str


@dataclass(frozen=True)
class Proof:
    """What a delta says of itself. All of it is checked: nothing is believed."""

    kind: str
    padding: str | None
    fingerprint: str
    """The delta's own."""
    base: str
    """Fingerprint of the base."""
    base_title: str
    inexact: int
    """Values that do not come out as the target has them."""
    config: Mapping[str, object] | None
    """config.json of an exact delta's target."""
    tensors: Mapping[str, Promised]
    """By canonical name."""

    def check_tensors(self, stored: Mapping[str, Expr], where: str) -> None:
        """BadInput where the delta's files hold other tensors than it says."""
        problems = []
        unlike = sorted(self.tensors.keys() ^ stored.keys())
        if unlike:
            problems.append(f"{where}: {NAME} and the tensors differ in {listing(unlike)}")
        problems += [
            f"{where}: {safe(name)}: {NAME} says shape {list(self.tensors[name].shape)}, "
            f"the files hold {list(value.shape)}"
            for name, value in stored.items()
            if name in self.tensors and self.tensors[name].shape != value.shape
        ]
        if problems:
            raise BadInput(problems[:20], hint="the files do not belong to this delta")


class _Reader(Fields):
    def digest(self, key: str) -> str:
        """A BLAKE3, which must be there."""
        value = self.text(key)
        self.require(**{key: value})
        if value is not None and not _DIGEST.fullmatch(value):
            self._wrong(key, "64 hexadecimal digits")
        return value or ""

    def choice(self, key: str, *choices: str | None) -> str | None:
        value = self.text(key)
        if value not in choices:
            expected = " or ".join(c or "null" for c in choices)
            self.problems.append(f"{self._where}: {key}: expected {expected}, found {safe(value)}")
        return value

    def natural(self, key: str) -> int:
        value = self._data.get(key)
        if not is_size(value):
            self.problems.append(f"{self._where}: {key}: expected a whole number")
            return 0
        return value

    def tensors(self, key: str) -> Mapping[str, Promised]:
        value = self._data.get(key)
        if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
            self.problems.append(f"{self._where}: {key}: expected an array of objects")
            return {}
        found: dict[str, Promised] = {}
        for entry in value:
            name = entry.get("name")
            if not isinstance(name, str) or name in found:
                self.problems.append(f"{self._where}: {key}: no name, or not the first: {name!r}")
                continue
            found[name] = self._promised(entry, f"{self._where}: {key}: {safe(name)}")
        return found

    def _promised(self, entry: Mapping[str, object], where: str) -> Promised:
        f = _Reader(entry, where)
        digest, dtype = f.digest("blake3"), BY_NAME.get(f.text("dtype") or "")
        shape = entry.get("shape")
        if not is_shape(shape):
            f.problems.append(f"{where}: shape: expected whole numbers")
            shape = []
        if dtype is None or not dtype.convertible:
            f.problems.append(f"{where}: dtype: expected F32, BF16 or F16")
        self.problems += f.problems
        return Promised(dtype or BY_NAME["F32"], tuple(shape), digest)


def read_proof(folder: Folder) -> Proof | None:
    """The delta's own words, where it has any; BadInput lists all that makes no sense."""
    if NAME not in folder.names:
        return None
    where = safe(folder.path / NAME)
    data = folder.json(NAME)
    if data.get("$schema") != SCHEMA:
        raise BadInput(
            f"{where}: $schema {safe(data.get('$schema'))}, expected {SCHEMA}",
            hint="was the delta made by another version of llamatools?",
        )
    f = _Reader(data, where)
    base = _Reader(f.mapping("base") or {}, f"{where}: base")
    kind = f.choice("kind", *TO_MAKE)
    found = Proof(
        kind=kind or "",
        padding=f.choice("padding", None, ZEROS),
        fingerprint=f.digest("fingerprint"),
        base=base.digest("fingerprint"),
        base_title=safe(base.text("title") or "another model"),
        inexact=f.natural("inexact"),
        config=f.mapping("config"),
        tensors=f.tensors("tensors"),
    )
    if kind == XOR:
        f.require(config=found.config)
    problems = [*f.problems, *base.problems]
    if problems:
        raise BadInput(problems[:20], hint="the file is damaged, or was edited")
    return found
