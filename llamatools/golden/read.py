"""Opens golden files: this package's own, and plain ones of tokens, positions and logits.

Whatever is wrong is BadInput: shapes are held to the JSON, ids to the vocabulary, numbers to being
finite, before anything is compared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from llamatools.containers.base import InputFile, StoredTensor
from llamatools.containers.safetensors_read import read_safetensors
from llamatools.errors import BadInput
from llamatools.golden.document import Document
from llamatools.golden.model import TOP_K, Digest, Golden, GoldenPrompt, Hidden
from llamatools.golden.plain import PROVENANCE_KEY, from_plain
from llamatools.golden.prompts import MAX_POSITIONS, problems_of
from llamatools.golden.record import batches
from llamatools.golden.sketch import COLUMNS, Floats
from llamatools.golden.stored import FLOATS, INTEGERS, InFile, finite, read_numbers
from llamatools.golden.tensors import read_arrays
from llamatools.golden.write import METADATA_KEY
from llamatools.jsonio import load_json_object
from llamatools.reference.observe import Prompt
from llamatools.text import listing, safe


def open_golden(path: Path) -> Golden:
    """A golden file of any form; logits in it are read when they are needed."""
    file = InputFile(path)
    if file.size >= 2 and file.read(0, 2) == b"PK":
        return from_plain(read_arrays(file), safe(path))
    container = read_safetensors(file)
    text = container.metadata.get(METADATA_KEY)
    if text is None:
        return from_plain(read_arrays(file), safe(path), container.metadata.get(PROVENANCE_KEY))
    document = Document(load_json_object(text.encode(), f"{path} (metadata)"), safe(path))
    return _Reader(document, container.tensors, safe(path)).golden()


def check_logits(golden: Golden) -> None:
    """Read all logits that are there in full; BadInput where one is NaN or infinite."""
    for p in golden.prompts:
        if p.full is not None:
            n, vocabulary = p.full.shape
            for part in batches(range(n), vocabulary):
                p.full.read(part.start, part.stop)


_DIGEST = {
    "top.ids": INTEGERS, "top.values": FLOATS, "lse": FLOATS, "mean": FLOATS, "square": FLOATS,
    "sketch": FLOATS,
}  # fmt: skip


class _Reader:
    """The tensors of one file, taken by name; whatever is left over is refused."""

    def __init__(self, document: Document, tensors: Mapping[str, StoredTensor], where: str) -> None:
        self._document = document
        self._left = dict(tensors)
        self._where = where
        self._problems: list[str] = []

    def golden(self) -> Golden:
        d = self._document
        prompts = [self._prompt(i, name, n) for i, (name, n) in enumerate(d.prompts)]
        if self._left:
            self._problems.append(f"{self._where}: unknown tensors: {listing(sorted(self._left))}")
        found = tuple(p for p in prompts if p is not None)
        if self._problems or len(found) != len(prompts):
            raise BadInput(self._problems)
        return Golden(
            vocab_size=d.vocab_size,
            dim=d.dim,
            dtype=d.dtype,
            source=d.source,
            generator=d.generator,
            noise=d.noise,
            points=d.points,
            prompts=found,
            notes=d.notes,
        )

    def _prompt(self, i: int, name: str, n: int) -> GoldenPrompt | None:
        """None where something of it is wrong, which is noted."""
        before = len(self._problems)
        if n > MAX_POSITIONS:
            self._problems.append(f"{self._where}: prompt {i}: {n:,} positions are too many")
            return None
        v, k, points = self._document.vocab_size, self._k, len(self._document.points)
        tokens = self._read(f"{i}.tokens", (n,), INTEGERS)
        positions = self._read(f"{i}.positions", (n,), INTEGERS)
        full = self._take_logits(f"{i}.logits", n, v)
        some = any(f"{i}.{part}" in self._left for part in (*_DIGEST, "targets"))
        compact = some or full is None or full.shape[0] < n
        shapes = dict(zip(_DIGEST, ((n, k), (n, k), (n,), (n,), (n,), (n, COLUMNS)), strict=True))
        parts = {
            part: self._read(f"{i}.{part}", shapes[part], _DIGEST[part])
            for part in (_DIGEST if compact else ())
        }
        targets = self._read(f"{i}.targets", (n - 1,), FLOATS) if compact else None
        sketches = self._read(f"{i}.hidden", (points, n, COLUMNS), FLOATS) if points else None
        rms = self._read(f"{i}.hidden.rms", (points, n), FLOATS) if points else None
        if len(self._problems) > before or tokens is None or positions is None:
            return None
        prompt = Prompt(name, tuple(tokens.tolist()), tuple(positions.tolist()))
        where = f"{self._where}: prompt {i}"
        self._problems += problems_of(prompt, v, where)
        digest = _digest(parts) if compact else None
        if digest is not None:
            self._check_digest(digest, where)
        self._check(rms is None or bool((rms >= 0).all()), f"{where}: a negative rms")
        below = targets is None or bool((targets <= 0).all())
        self._check(below, f"{where}: a log-probability above 0")
        hidden = Hidden(sketches, rms) if sketches is not None and rms is not None else None
        return GoldenPrompt(prompt, digest, targets, full, hidden)

    @property
    def _k(self) -> int:
        return min(TOP_K, self._document.vocab_size)

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._problems.append(otherwise)

    def _check_digest(self, d: Digest, where: str) -> None:
        v = self._document.vocab_size
        ids = np.sort(d.top_ids, axis=1)
        inside = bool(((ids >= 0) & (ids < v)).all() and (np.diff(ids, axis=1) > 0).all())
        self._check(inside, f"{where}: top ids are not different ids of the vocabulary")
        falling = bool((np.diff(d.top_values, axis=1) <= 0).all())
        self._check(falling, f"{where}: top values do not fall")
        # Values may be rounded to float32, the sum is not.
        top = d.top_values[:, 0]
        above = bool((d.lse >= top - 1e-5 * (1 + np.abs(top))).all())
        self._check(above, f"{where}: a log-sum-exp below the largest logit")
        spread = bool((d.square >= np.square(d.mean) * (1 - 1e-9)).all())
        self._check(spread, f"{where}: a mean square below the square of the mean")

    def _pop(
        self, name: str, fits: Callable[[StoredTensor], bool], wanted: str
    ) -> StoredTensor | None:
        t = self._left.pop(name, None)
        if t is None:
            self._problems.append(f"{self._where}: {name} is missing")
        elif not fits(t):
            found = f"{t.dtype} {list(t.shape)}"
            self._problems.append(f"{self._where}: {name}: expected {wanted}, found {found}")
        else:
            return t
        return None

    def _read(self, name: str, shape: tuple[int, ...], types: tuple[str, ...]) -> Floats | None:
        wanted = f"{' or '.join(types)} {list(shape)}"
        t = self._pop(name, lambda t: t.shape == shape and t.dtype.name in types, wanted)
        if t is None:
            return None
        if not prod(shape):
            return np.zeros(shape)
        try:
            return finite(read_numbers(t), f"{self._where}: {name}")
        except BadInput as e:
            self._problems += e.problems
            return None

    def _take_logits(self, name: str, n: int, v: int) -> InFile | None:
        if name not in self._left:
            return None

        def fits(t: StoredTensor) -> bool:
            return len(t.shape) == 2 and 0 < t.shape[0] <= n and t.shape[1] == v

        t = self._pop(name, lambda t: fits(t) and t.dtype.name in FLOATS, f"[1 to {n}, {v}]")
        return None if t is None else InFile(t)


def _digest(parts: Mapping[str, Floats | None]) -> Digest | None:
    ids, values, lse, mean, square, sketch = (parts[name] for name in _DIGEST)
    if ids is None or values is None or lse is None or mean is None or square is None:
        return None
    return (
        None if sketch is None else Digest(ids.astype(np.int64), values, lse, mean, square, sketch)
    )
