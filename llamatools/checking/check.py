"""Is a folder what it was? Every file against what documents, lists and a hub said of it.

Whatever says something of the files is held against them: llamatools.json (whose own digest proves
it), llamatools-delta.json, lists of checksums, and the digests that a download left. Every file is
read once. All that is wrong is found in one go, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamatools.checking.claims import Claim, Expected, Problem, unreadable
from llamatools.checking.documents import documents
from llamatools.checking.hashing import Algorithm, Found, digest_files
from llamatools.checking.hub import downloads
from llamatools.checking.lists import lists
from llamatools.checking.tree import Tree, look
from llamatools.checking.unlisted import unlisted
from llamatools.engine.outcome import Begin
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.errors import BadInput, LlamatoolsError
from llamatools.text import safe

_SOURCES = (documents, lists, downloads)


@dataclass(frozen=True)
class Checked:
    """What became of a check."""

    path: Path
    by: tuple[str, ...]
    """What the files were held against."""
    files: int
    """That were found as they should be, or not."""
    nbytes: int
    problems: tuple[Problem, ...]
    others: tuple[str, ...]
    """Names that nothing speaks of, and that change nothing."""
    notes: tuple[str, ...]
    fingerprint: str | None = None
    """The tensors', where it was asked for."""

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0, 1, or 4 where reading failed and nothing else is wrong."""
        if self.holds:
            return 0
        return 4 if all(p.kind == "unreadable" for p in self.problems) else 1


def check(
    path: str | Path,
    *,
    fingerprint: bool = False,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    begin: Begin = lambda total: lambda done: None,
) -> Checked:
    """Read a folder again, and hold every file against what is said of it.

    With `fingerprint`, the model's is computed from the tensors, too. What is wrong is in the
    result's `problems`. Raises BadInput where nothing says anything of the files, so that there is
    nothing to hold them against.
    """
    tree = look(Path(path))
    claims = tuple(c for source in _SOURCES for c in source(tree))
    if not any(c.files or c.problems for c in claims):
        raise _nothing_to_go_by(tree, claims)
    found = _Files(tree, claims)
    problems = [p for c in claims for p in c.problems] + found.misfits
    wanted = found.wanted
    progress = begin(sum(tree.entries[name].size for name in wanted))
    places = {tree.path / name: algorithms for name, algorithms in wanted.items()}
    read = digest_files(places, jobs=jobs, max_memory=max_memory, progress=progress)
    wrong = found.wrong({name: read[tree.path / name] for name in wanted})
    added, others = unlisted(tree, claims)
    problems += _located(tree, claims, wrong, jobs, max_memory) + added
    computed = None
    if fingerprint and not problems:
        from llamatools.checking import tensors

        claim = next((c for c in claims if c.fingerprint), None)
        computed, differing = tensors.computed(
            tree.path, claim, jobs=jobs, max_memory=max_memory, begin=begin
        )
        problems += differing
    return Checked(
        tree.path,
        tuple(c.by for c in claims),
        len({f.name for c in claims for f in c.files} | {c.by for c in claims if c.itself}),
        sum(tree.entries[name].size for name in wanted) + sum(c.itself or 0 for c in claims),
        tuple(problems),
        tuple(others),
        tuple(note for c in claims for note in c.notes),
        computed,
    )


def _nothing_to_go_by(tree: Tree, claims: Iterable[Claim]) -> BadInput:
    notes = "".join(f"; {note}" for c in claims for note in c.notes)
    return BadInput(
        f"{safe(tree.path)}: nothing says what its files should be: no llamatools.json, "
        f"checklist.chk or SHA256SUMS, and no digests of a hub{notes}",
        hint="llamatools fingerprint gives a digest of the model to compare, and sha256sum * > "
        "SHA256SUMS a list to check against from now on",
    )


@dataclass(frozen=True)
class _Files:
    """What is expected of the files of a folder."""

    tree: Tree
    claims: Sequence[Claim]

    @property
    def _expected(self) -> list[Expected]:
        return [f for c in self.claims for f in c.files]

    def _misfit(self, f: Expected) -> Problem | None:
        """What can be told without reading."""
        entry = self.tree.entries.get(f.name)
        if entry is None:
            text = f"is missing: {safe(f.by)} has it"
            return Problem(f.name, "missing", text, f.digest, by=f.by)
        if not entry.readable:
            text = f"is {entry.kind.value}, expected a file"
            return Problem(f.name, "not-a-file", text, f.digest, by=f.by)
        if f.size is not None and f.size != entry.size:
            text = f"{entry.size:,} bytes, {safe(f.by)} says {f.size:,}"
            return Problem(f.name, "size", text, str(f.size), str(entry.size), f.by)
        return None

    @property
    def misfits(self) -> list[Problem]:
        """One for each file."""
        found: dict[str, Problem] = {}
        for f in self._expected:
            problem = self._misfit(f)
            if problem is not None:
                found.setdefault(f.name, problem)
        return list(found.values())

    @property
    def wanted(self) -> dict[str, set[Algorithm]]:
        """Files to be read, the largest first, and which digests of each."""
        out: dict[str, set[Algorithm]] = {}
        for f in self._expected:
            out.setdefault(f.name, set()).add(f.algorithm)
        for problem in self.misfits:
            del out[problem.file]
        return dict(sorted(out.items(), key=lambda item: -self.tree.entries[item[0]].size))

    def wrong(self, read: Mapping[str, Found | LlamatoolsError]) -> list[Problem]:
        """What reading told."""
        problems: dict[Problem, None] = {}
        said = _Said.of(self._expected)
        for f in self._expected:
            found = read.get(f.name)
            if isinstance(found, LlamatoolsError):
                problems[unreadable(f.name, self.tree.path / f.name, found)] = None
            elif found is not None and found[f.algorithm] != f.digest:
                problems[said.other(f, found[f.algorithm])] = None
        return list(problems)


@dataclass(frozen=True)
class _Said:
    """All that is said, to tell what a digest is that a file should not have."""

    meant: Mapping[tuple[Algorithm, str], str]
    """{digest: the file that should have it}"""
    agreeing: Mapping[tuple[str, Algorithm, str], str]
    """{file and digest: who says so}"""
    ends: Mapping[tuple[str, str, Algorithm], tuple[str, str]]
    """{who, of which file: the first digest and the last}; they differ only by mistake."""

    @classmethod
    def of(cls, expected: Iterable[Expected]) -> _Said:
        meant: dict[tuple[Algorithm, str], str] = {}
        agreeing: dict[tuple[str, Algorithm, str], str] = {}
        ends: dict[tuple[str, str, Algorithm], tuple[str, str]] = {}
        for f in expected:
            meant[f.algorithm, f.digest] = f.name
            agreeing[f.name, f.algorithm, f.digest] = f.by
            key = (f.by, f.name, f.algorithm)
            ends[key] = (ends.get(key, (f.digest, ""))[0], f.digest)
        return cls(meant, agreeing, ends)

    def other(self, f: Expected, found: str) -> Problem:
        """That a file has another digest than it should."""
        text = f"{f.algorithm.name} {found[:16]}..., {safe(f.by)} says {f.digest[:16]}..."
        first, last = self.ends[f.by, f.name, f.algorithm]
        by = self.agreeing.get((f.name, f.algorithm, found))
        instead = self.meant.get((f.algorithm, found))
        if first != last:
            also = last if f.digest == first else first
            text += f" and contradicts itself: it says {also[:16]}... as well"
        elif by is not None:
            text += f": what it holds is what {safe(by)} says"
        elif instead is not None:
            text += f": it holds what {safe(instead)} should"
        return Problem(f.name, "digest", text, f.digest, found, f.by)


def _located(
    tree: Tree, claims: Sequence[Claim], wrong: list[Problem], jobs: int | None, max_memory: int
) -> list[Problem]:
    """The same, with the tensors that damage is in, as far as a manifest tells."""
    promised = next((c.tensors for c in claims if c.tensors), None)
    names = {p.file for p in wrong if p.kind == "digest"}
    if promised is None or not names:
        return wrong
    from llamatools.checking import tensors

    where = tensors.damaged(tree.path, names, promised, jobs=jobs, max_memory=max_memory)
    return [replace(p, tensors=where.get(p.file, ())) for p in wrong]
