"""Output read back before it gets its name: every file, and every tensor, as it was written.

A run digests what it means to write. Behind that lie the system's caches, the disk, and the way a
reader goes: offsets, shards and row order may be wrong around bytes that are right. So files are
read again, from the disk where the system lets go of its copies, and opened as anyone will who
gets the output. The fingerprint that comes back must be the one that was computed while writing,
which of a lossless conversion is the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from llamatools.checkpoint import open_checkpoint
from llamatools.engine.digest import file_digest
from llamatools.engine.outcome import Begin, Progress
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.errors import BadInput, CheckFailed
from llamatools.fingerprints import Fingerprint, TensorDigest, differences, fingerprint
from llamatools.jsonio import dump_json
from llamatools.prepared import Prepared
from llamatools.text import safe

_MAX_PROBLEMS = 20

Manifest = Mapping[str, Any]
Answers = Callable[[Path, Manifest], Mapping[str, object]]
"""Called with a staging folder that was read back, and its manifest; returns what the model in it
answers, or raises CheckFailed."""


def verified(
    prepared: Prepared,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    begin: Begin = lambda total: lambda done: None,
    answers: Answers | None = None,
) -> Prepared:
    """The same conversion, whose output is read back, and not published where it is not as written.

    What `run` returns has it under "verified"; llamatools.json does not, since it is among what is
    read back.
    """

    def prove(folder: Path, name: str, found: Manifest) -> dict[str, object]:
        read = read_back(folder, name, found, jobs=jobs, max_memory=max_memory, begin=begin)
        golden = answers(folder, found) if answers is not None else None
        return {"verified": {**read, "golden": golden}}

    return replace(prepared, prove=prove)


def read_back(
    folder: Path,
    name: str,
    manifest: Manifest,
    *,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    begin: Begin = lambda total: lambda done: None,
) -> dict[str, object]:
    """What was read. CheckFailed where it is not what the manifest, in the file `name`, says."""
    files = {f["name"]: (f["bytes"], f["blake3"]) for f in manifest["files"]}
    own = dump_json(manifest)
    files[name] = len(own), blake3(own).hexdigest()
    problems = _wrong_files(folder, files, begin(sum(size for size, _ in files.values())))
    written = _fingerprint(manifest)
    try:
        with open_checkpoint(folder) as opened:
            read = fingerprint(opened, jobs=jobs, max_memory=max_memory, begin=begin)
    except BadInput as e:
        problems += e.problems
    else:
        problems += [
            f"{d.name}: read back as {d.right or 'nothing'}, written as {d.left or 'nothing'}"
            for d in differences(written, read)
        ]
        if read.digest != written.digest and not problems:
            problems.append(f"read back as {read.digest}, written as {written.digest}")
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise CheckFailed(
            [*problems[:_MAX_PROBLEMS], *([f"and {more} more problems"] if more > 0 else [])],
            hint="nothing was published; the disk or the memory of this machine may be failing; "
            "if not, it is a defect of llamatools: please report it",
        )
    return {"fingerprint": written.digest, "files": len(files), "tensors": len(written.tensors)}


def _wrong_files(
    folder: Path, files: Mapping[str, tuple[int, str]], progress: Progress
) -> list[str]:
    there = {p.name for p in folder.iterdir()}
    problems = [f"{safe(name)}: nobody wrote it" for name in sorted(there - files.keys())]
    for name, expected in sorted(files.items()):
        if name not in there:
            problems.append(f"{safe(name)}: is not there")
        elif file_digest(folder / name, progress) != expected:
            problems.append(f"{safe(name)}: read back with other bytes than were written")
    return problems


def _fingerprint(manifest: Manifest) -> Fingerprint:
    tensors: Iterable[Any] = manifest["tensors"]
    return Fingerprint(
        manifest["fingerprint"],
        {t["name"]: TensorDigest(t["dtype"], tuple(t["shape"]), t["blake3"]) for t in tensors},
    )
