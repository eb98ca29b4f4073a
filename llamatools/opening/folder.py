"""A checkpoint's folder: which files hold weights, which configs, which merely travel along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, IOFailed, Unsupported, UsageError
from llamatools.jsonio import MAX_BYTES, load_json_object
from llamatools.opening.weightfiles import (
    ENDINGS,
    FETCH,
    SCHEMES,
    Scheme,
    scheme_of,
    weight_files,
)
from llamatools.text import listing, safe
from llamatools.yamlio import MAX_BYTES as MAX_YAML_BYTES
from llamatools.yamlio import load_yaml_object

_TRAVELLERS = re.compile(
    r"tokenizer(_config)?\.(model|json)|special_tokens_map\.json|added_tokens\.json|vocab\.json|"
    r"merges\.txt|chat_template\.(jinja|json)|generation_config\.json|"
    r"(LICENSE|NOTICE|USE_POLICY)[\w. -]*",
    re.ASCII,
)


@dataclass(frozen=True)
class Folder:
    """What lies in one folder. Only names have been looked at."""

    path: Path
    names: frozenset[str]
    """Regular files, and links to such that stay where they may."""
    rejected: frozenset[str]
    """Everything else but folders: links that lead away, pipes, devices."""
    chosen: str | None = None
    """The one weight file the user named, where a file was given."""

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The weight files, in order of their number; BadInput where there are none."""
        if self.chosen is not None:
            return (self._check_chosen(self.chosen),)
        for scheme in SCHEMES:
            files = self._of(scheme)
            if files:
                return tuple(files)
        # A lone pickle of another name may be anything that training leaves; it must be named.
        loose = [n for n in self.names if n.endswith(".safetensors") and "adapter" not in n]
        if len(loose) == 1:
            return tuple(loose)
        raise self._weightless()

    def _of(self, scheme: Scheme) -> list[str]:
        """The files of one scheme, by its index where there is one."""
        where = safe(self.path)
        members = scheme.members(self.names)
        rejected = [n for n in self.rejected if n == scheme.plain or scheme.numbered.fullmatch(n)]
        if rejected:
            raise self._not_files(rejected)
        if scheme.plain in self.names:
            if not members:  # an index beside it is stale: transformers does not look at it either
                return [scheme.plain]
            raise BadInput(
                f"{where}: holds two checkpoints: {scheme.plain} and {listing(members)}",
                hint="give the one file you mean, or move the others away",
            )
        if scheme.index in self.names:
            return sorted(set(self._read_index(scheme.index).values()))
        if members:
            scheme.check_complete(members, where)
        return members

    def _check_chosen(self, name: str) -> str:
        """UsageError where the file the user named is one of several that belong together."""
        scheme = scheme_of(name)
        if scheme is not None and len(scheme.members(self.names)) > 1:
            raise UsageError(
                f"{safe(name)} is one of several files of a checkpoint",
                hint=f"give the folder instead: {safe(self.path)}",
            )
        return name

    def _weightless(self) -> BadInput:
        """Why a folder has no weights to read, as precisely as its names tell."""
        where = safe(self.path)
        gguf = sorted(n for n in self.names if n.endswith((".gguf", ".ggml")))
        if gguf:
            return Unsupported(
                f"{where}: a GGUF checkpoint: {listing(gguf)}",
                hint="convert from the original Meta or Hugging Face release instead",
            )
        if any(n.startswith(("adapter_config.", "adapter_model.")) for n in self.names):
            return Unsupported(
                f"{where}: an adapter, not a model",
                hint="merge it into its base model: llamatools merge-lora BASE ADAPTER OUT",
            )
        if "llamatools-delta.json" in self.names:
            return Unsupported(
                f"{where}: an exact delta, not a model",
                hint="llamatools apply-delta BASE DELTA OUT makes a model of it and its base",
            )
        rejected = [n for n in self.rejected if n.endswith(ENDINGS)]
        if rejected:
            return self._not_files(rejected)
        found = listing(sorted(self.names)) or "no files"
        return BadInput(
            f"{where}: no weights: expected consolidated.NN.pth, model*.safetensors or "
            f"pytorch_model*.bin, found {found}",
            hint="give the folder that holds the weight files, or the one weight file itself",
        )

    def _not_files(self, names: list[str]) -> BadInput:
        return BadInput(
            f"{safe(self.path)}: not regular files, or links that lead out of the folder: "
            f"{listing(sorted(names))}",
            hint="copy the files themselves into the folder, or give the folder they are in",
        )

    @cached_property
    def index(self) -> Mapping[str, str] | None:
        """{tensor name: file name} of the weights, where an index says so."""
        for scheme in SCHEMES:
            if scheme.index in self.names and set(scheme.members(self.weights)):
                return self._read_index(scheme.index)
        return None

    def _read_index(self, name: str) -> Mapping[str, str]:
        weight_map = self.json(name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput(f"{safe(self.path / name)}: weight_map: expected a filled object")
        strange: dict[str, str] = {}  # each file once, however many tensors are in it
        for tensor, file in weight_map.items():
            if not isinstance(file, str) or file != Path(file).name:
                strange.setdefault(safe(file), safe(tensor))
        if strange:
            raise BadInput(
                [
                    f"{safe(name)}: {tensor}: expected a plain file name, found {file}"
                    for file, tensor in list(strange.items())[:20]
                ],
                hint="an index may only name files beside it",
            )
        missing = sorted(set(weight_map.values()) - self.names)
        if missing:
            raise BadInput(
                f"{safe(self.path)}: the index names files that are missing: {listing(missing)}",
                hint=FETCH,
            )
        return weight_map

    def open(self, name: str) -> InputFile:
        """A file in the folder."""
        return InputFile(self.path / name)

    def json(self, name: str) -> dict[str, object]:
        """A JSON object in the folder."""
        return load_json_object(self._whole(name, MAX_BYTES), safe(self.path / name))

    def yaml(self, name: str) -> dict[str, object]:
        """A YAML mapping in the folder."""
        return load_yaml_object(self._whole(name, MAX_YAML_BYTES), safe(self.path / name))

    def _whole(self, name: str, most: int) -> bytes:
        file = self.open(name)
        try:
            if file.size > most:
                raise BadInput(f"{safe(file.path)}: {file.size:,} bytes is too large for settings")
            return file.read(0, file.size)
        finally:
            file.close()

    def unread_weights(self) -> list[str]:
        """Weight files that are not part of the checkpoint that is read."""
        return [n for n in weight_files(self.names) if n not in self.weights]

    def travellers(self) -> tuple[str, ...]:
        """Tokenizer, licence and generation files, which go along unchanged."""
        return tuple(sorted(n for n in self.names if _TRAVELLERS.fullmatch(n)))


def scan(source: Path) -> Folder:
    """Look at a folder, or at the folder of the one weight file given."""
    try:
        is_folder = S_ISDIR(source.stat().st_mode)
        path = source if is_folder else source.parent
        entries = {p.name: _kind(p, path) for p in path.iterdir()}
    except FileNotFoundError as e:
        raise BadInput(f"{safe(source)}: no such file or folder") from e
    except (OSError, ValueError) as e:
        raise IOFailed(f"{safe(source)}: cannot be read: {e}") from e
    names = frozenset(n for n, kind in entries.items() if kind == "file")
    rejected = frozenset(n for n, kind in entries.items() if kind == "rejected")
    if not is_folder and source.name not in names:
        raise BadInput(
            f"{safe(source)}: not a regular file, or a link that leads out of its folder"
        )
    return Folder(path, names, rejected, None if is_folder else source.name)


def _kind(entry: Path, folder: Path) -> str:
    """ "file", "folder" or "rejected". Links may stay in the folder, or lead into the hub
    cache's own blobs: <repo>/snapshots/<revision>/.../<name> -> <repo>/blobs/<digest>."""
    mode = entry.lstat().st_mode
    if S_ISREG(mode):
        return "file"
    if S_ISDIR(mode):
        return "folder"
    if not S_ISLNK(mode):
        return "rejected"
    try:
        target, home = entry.resolve(), folder.resolve()
        allowed = target.parent == home or target.parent in _blobs(home)
        return "file" if allowed and target.is_file() else "rejected"
    except (OSError, RuntimeError):  # links in a circle
        return "rejected"


def _blobs(home: Path) -> list[Path]:
    """Where the hub cache keeps what a folder in one of its snapshots links to."""
    return [p.parent / "blobs" for p in home.parents if p.name == "snapshots"]
