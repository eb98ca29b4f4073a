"""A checkpoint's folder: which files hold weights, which configs, which merely travel along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, Unsupported, UsageError
from llamatools.family.refuse import refuse_files
from llamatools.jsonio import load_json_object
from llamatools.text import listing, safe

_NUMBERED = r"-(?P<part>\d{5})-of-(?P<of>\d{5})"

WEIGHT_FILES = (
    # Preferred first: a folder that holds a model twice (bin and safetensors) is read once.
    re.compile(rf"model(?:{_NUMBERED})?\.safetensors"),
    re.compile(rf"pytorch_model(?:{_NUMBERED})?\.bin"),
    re.compile(r"consolidated\.(?P<rank>\d{2,3})\.pth"),
    re.compile(r"consolidated\.pth"),
    re.compile(r"consolidated\.(?P<rank>\d{2,3})\.safetensors"),
    re.compile(rf"consolidated(?:{_NUMBERED})?\.safetensors"),
)
"""Naming schemes of weight files. A scheme's files make one checkpoint together."""


def is_ranked(name: str) -> bool:
    """Whether a file name is that of one model-parallel rank."""
    return any(m.groupdict().get("rank") for m in (s.fullmatch(name) for s in WEIGHT_FILES) if m)


_TRAVELLERS = re.compile(
    r"tokenizer(_config)?\.(model|json)|special_tokens_map\.json|added_tokens\.json|vocab\.json|"
    r"merges\.txt|chat_template\.(jinja|json)|generation_config\.json|"
    r"LICENSE.*|NOTICE.*|USE_POLICY.*",
)


@dataclass(frozen=True)
class Folder:
    """What lies in one folder. Only names have been looked at."""

    path: Path
    names: frozenset[str]
    """Regular files, and links to such that stay where they may."""
    chosen: str | None = None
    """The one weight file the user named, where a file was given."""

    def weights(self) -> tuple[str, ...]:
        """The weight files, in order of their rank or part; BadInput where there are none."""
        if self.chosen is not None:
            return self._family_of(self.chosen)
        index = self.index()
        if index is not None:
            return tuple(sorted(set(index.values())))
        for scheme in WEIGHT_FILES:
            found = sorted(n for n in self.names if scheme.fullmatch(n))
            if found:
                return self._complete(scheme, found)
        loose = sorted(n for n in self.names if n.endswith((".safetensors", ".pth", ".bin", ".pt")))
        if len(loose) == 1 and loose[0] != "adapter_model.safetensors":
            return tuple(loose)
        self._refuse_weightless()
        raise BadInput(
            f"{safe(self.path)}: no weights found: expected consolidated.NN.pth, "
            f"model*.safetensors or pytorch_model*.bin, found {listing(sorted(self.names)) or '-'}",
            hint="give the folder that holds the weight files, or the one weight file itself",
        )

    def _refuse_weightless(self) -> None:
        gguf = sorted(n for n in self.names if n.endswith((".gguf", ".ggml")))
        if gguf:
            raise Unsupported(
                f"{safe(self.path)}: a GGUF checkpoint: {listing(gguf)}",
                hint="convert from the original Meta or Hugging Face release instead",
            )
        if "adapter_config.json" in self.names or any(
            n.startswith("adapter_model.") for n in self.names
        ):
            raise Unsupported(
                f"{safe(self.path)}: an adapter, not a model",
                hint="convert its base model, and merge the adapter into it",
            )

    def _family_of(self, name: str) -> tuple[str, ...]:
        for scheme in WEIGHT_FILES:
            if scheme.fullmatch(name):
                family = sorted(n for n in self.names if scheme.fullmatch(n))
                numbered = [n for n in family if scheme.fullmatch(n).groupdict()]  # type: ignore[union-attr]
                if len(family) > 1 and name in numbered:
                    raise UsageError(
                        f"{safe(name)} is one of {len(family)} files of a checkpoint",
                        hint=f"give the folder instead: {safe(self.path)}",
                    )
        return (name,)

    def _complete(self, scheme: re.Pattern[str], found: list[str]) -> tuple[str, ...]:
        """BadInput where numbered files have gaps; unnumbered files beside them are left."""
        matches = {n: scheme.fullmatch(n) for n in found}
        groups = {n: m.groupdict() for n, m in matches.items() if m}
        ranks = {n: int(g["rank"]) for n, g in groups.items() if g.get("rank")}
        if ranks:
            missing = sorted(set(range(max(ranks.values()) + 1)) - set(ranks.values()))
            if missing:
                raise BadInput(
                    f"{safe(self.path)}: consolidated files of ranks {listing(missing)} are "
                    f"missing; found {listing(found)}",
                    hint="fetch the missing files",
                )
            return tuple(sorted(ranks, key=ranks.__getitem__))
        parts = {n: (int(g["part"]), int(g["of"])) for n, g in groups.items() if g.get("part")}
        if not parts:
            return (found[0],)
        plain = [n for n in found if n not in parts]
        totals = {of for _, of in parts.values()}
        if plain or len(totals) > 1:
            raise BadInput(
                f"{safe(self.path)}: holds more than one checkpoint: {listing(found)}",
                hint="give the weight file you mean, or move the others away",
            )
        missing = sorted(set(range(1, max(totals) + 1)) - {p for p, _ in parts.values()})
        if missing:
            raise BadInput(
                f"{safe(self.path)}: parts {listing(missing)} of {max(totals)} are missing",
                hint="fetch the missing files",
            )
        return tuple(sorted(parts, key=lambda n: parts[n]))

    def index(self) -> Mapping[str, str] | None:
        """The weight map of the preferred index file: {tensor name: file name}."""
        for name in (
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "consolidated.safetensors.index.json",
        ):
            if name in self.names and not self._outranked(name):
                return self._read_index(name)
        return None

    def _outranked(self, index: str) -> bool:
        """An index of .bin files does not count beside a single complete model.safetensors."""
        return index.endswith(".bin.index.json") and "model.safetensors" in self.names

    def _read_index(self, name: str) -> Mapping[str, str]:
        weight_map = self.json(name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput(f"{safe(self.path / name)}: weight_map: expected a filled object")
        problems = []
        for tensor, file in weight_map.items():
            if not isinstance(file, str) or file != Path(file).name or file in ("", ".", ".."):
                problems.append(
                    f"{safe(name)}: {safe(tensor)}: expected a plain file name, found {safe(file)}"
                )
        missing = sorted({f for f in weight_map.values() if isinstance(f, str)} - self.names)
        if not problems and missing:
            problems.append(f"{safe(self.path)}: the index names files that are missing: "
                            f"{listing(missing)}")  # fmt: skip
        if problems:
            raise BadInput(problems, hint="fetch the checkpoint again, with every file of it")
        return weight_map

    def json(self, name: str) -> dict[str, object]:
        """A JSON object in the folder."""
        file = InputFile(self.path / name)
        try:
            if file.size > _MAX_JSON:
                raise BadInput(f"{safe(file.path)}: {file.size} bytes is too large for JSON")
            return load_json_object(file.read(0, file.size), safe(file.path))
        finally:
            file.close()

    def travellers(self) -> tuple[str, ...]:
        """Tokenizer, licence and generation files, which go along unchanged."""
        return tuple(sorted(n for n in self.names if _TRAVELLERS.fullmatch(n)))


_MAX_JSON = 100_000_000


def scan(source: Path) -> Folder:
    """Look at a folder, or at the folder of the one weight file given."""
    try:
        is_folder = S_ISDIR(source.stat().st_mode)
    except FileNotFoundError as e:
        raise BadInput(f"{safe(source)}: no such file or folder") from e
    except OSError as e:
        raise BadInput(f"{safe(source)}: cannot be read: {e.strerror}") from e
    path = source if is_folder else source.parent
    names = frozenset(p.name for p in path.iterdir() if _acceptable(p, path))
    if not is_folder and source.name not in names:
        raise BadInput(f"{safe(source)}: is not a regular file")
    refuse_files(names)
    return Folder(path, names, None if is_folder else source.name)


def _acceptable(entry: Path, folder: Path) -> bool:
    """Regular files; links only within the folder or into the hub cache's own blobs."""
    mode = entry.lstat().st_mode
    if S_ISREG(mode):
        return True
    if not S_ISLNK(mode):
        return False
    target = entry.resolve()
    if not target.is_file():
        return False
    # The hub cache: <repo>/snapshots/<revision>/<name> -> <repo>/blobs/<digest>
    home = folder.resolve()
    blobs = home.parent.parent / "blobs"
    return target.parent == home or (home.parent.name == "snapshots" and target.parent == blobs)
