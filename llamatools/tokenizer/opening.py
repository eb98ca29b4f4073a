"""Opening a tokenizer: a file of any of the three forms, or a folder that holds some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput
from llamatools.jsonio import load_json_object
from llamatools.opening.folder import Folder, scan
from llamatools.text import listing, nbytes, safe
from llamatools.tokenizer import hf_files
from llamatools.tokenizer.json_read import JsonTokenizer, read_tokenizer_json
from llamatools.tokenizer.json_write import NAME as JSON_NAME
from llamatools.tokenizer.ranks import Ranks, looks_like_ranks, read_ranks
from llamatools.tokenizer.rebuild import Base, differences, rebuild
from llamatools.tokenizer.sentencepiece_model import Roles, read_model
from llamatools.tokenizer.tokenizer import Tokenizer, from_model, from_ranks
from llamatools.tokenizer.versions import (
    PATTERN_3,
    Version,
    version_of_file,
    version_of_names,
)

MODEL_NAME = "tokenizer.model"
MAX_BYTES = 100_000_000
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class TokenizerFiles:
    """The files a tokenizer was read from, and what they say."""

    path: Path
    tokenizer: Tokenizer
    model_file: bytes | None
    """tokenizer.model as it lies there."""
    json_file: bytes | None = None
    """tokenizer.json as it lies there."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json, where they are there."""
    chat_template: str | None = None
    template_file: bytes | None = None
    """chat_template.jinja as it lies there."""
    conflicts: tuple[str, ...] = ()
    """Where the files disagree, and who was believed."""
    deviations: tuple[str, ...] = ()
    """What tokenizer.json does that Meta's form of the tokenizer does not."""
    notes: tuple[str, ...] = ()
    """What the files do not say, and was assumed."""

    @property
    def form(self) -> str:
        return "tokenizer.json" if self.json_file is not None else f"{self.tokenizer.kind} file"

    @property
    def states_roles(self) -> bool:
        """Whether a file says which tokens begin and end text: a ranks file does not."""
        return self.tokenizer.kind == "sentencepiece" or bool(self.configs)

    @property
    def sha256(self) -> str:
        data = self.model_file if self.model_file is not None else self.json_file
        return sha256(data or b"").hexdigest()


def open_tokenizer(
    source: str | Path, *, version: str | None = None, prefer: str = "json"
) -> TokenizerFiles:
    """Open tokenizer.model, tokenizer.json, or a folder with either or both.

    Of two files that disagree the one of the name in `prefer` ("json", "model") is believed.
    `version` names the special tokens of a ranks file where the file does not tell.
    """
    path = Path(source)
    folder = scan(path)
    if folder.chosen is None:
        return open_folder(folder, version=version, prefer=prefer)
    data = _read(path)
    if data.lstrip()[:1] == b"{":
        return _assemble(folder, None, data, {}, version, prefer)
    return _assemble(folder, data, None, {}, version, prefer)


def open_folder(
    folder: Folder, *, version: str | None = None, prefer: str = "json"
) -> TokenizerFiles:
    names = folder.names
    model = _read(folder.path / MODEL_NAME) if MODEL_NAME in names else None
    document = _read(folder.path / JSON_NAME) if JSON_NAME in names else None
    if model is None and document is None:
        rejected = sorted({MODEL_NAME, JSON_NAME} & folder.rejected)
        why = f"{listing(rejected)} leads out of it" if rejected else "no tokenizer in it"
        raise BadInput(
            f"{safe(folder.path)}: {why}",
            hint=f"give a folder with {MODEL_NAME} or {JSON_NAME}, or the file itself",
        )
    return _assemble(folder, model, document, _configs(folder), version, prefer)


def read_model_file(path: Path) -> bytes:
    """The bytes of a tokenizer.model, given as the file or its folder."""
    folder = scan(path)
    return _read(path if folder.chosen is not None else path / MODEL_NAME)


def _read(path: Path) -> bytes:
    file = InputFile(path)
    try:
        if file.size > MAX_BYTES:
            raise BadInput(f"{safe(path)}: {nbytes(file.size)} is too large for a tokenizer")
        return file.read(0, file.size)
    finally:
        file.close()


def _configs(folder: Folder) -> dict[str, dict[str, Any]]:
    names = (hf_files.CONFIG, hf_files.SPECIALS, hf_files.ADDED)
    return {
        n: load_json_object(_read(folder.path / n), n, max_digits=hf_files.MAX_DIGITS)
        for n in names
        if n in folder.names
    }


def _assemble(
    folder: Folder,
    model: bytes | None,
    document: bytes | None,
    configs: Mapping[str, dict[str, Any]],
    version: str | None,
    prefer: str,
) -> TokenizerFiles:
    home = folder.path if folder.chosen is None else folder.path / folder.chosen
    here = {n: safe(home / n if folder.chosen is None else home) for n in (MODEL_NAME, JSON_NAME)}
    config = configs.get(hf_files.CONFIG, {})
    template = config.get("chat_template")
    beside = CHAT_TEMPLATE in folder.names and folder.chosen is None
    template_file = _read(folder.path / CHAT_TEMPLATE) if beside else None
    if template_file is not None:
        template = template_file.decode(errors="replace")
    files = TokenizerFiles(
        path=home,
        tokenizer=Tokenizer(Ranks(())),
        model_file=model,
        json_file=document,
        configs=configs,
        chat_template=template if isinstance(template, str) else None,
        template_file=template_file,
    )
    base = read_base(model, here[MODEL_NAME]) if model is not None else None
    if document is None:
        assert base is not None
        return _from_base(files, base, version)
    source = read_tokenizer_json(document, here[JSON_NAME])
    return _from_json(files, base, source, here[JSON_NAME], prefer)


def read_base(data: bytes, where: str) -> Base:
    """A tokenizer.model, of whichever of its two kinds."""
    if not data:
        raise BadInput(f"{where}: an empty file")
    if looks_like_ranks(data):
        return read_ranks(data, where)
    try:
        return read_model(data, where)
    except BadInput as e:
        if type(e) is BadInput and not data.startswith(b"\n"):
            raise BadInput(
                f"{where}: neither a SentencePiece model nor a ranks file",
                hint="a pointer of Git LFS, or an HTML page? fetch the file itself",
            ) from None
        raise


def _from_base(files: TokenizerFiles, base: Base, version: str | None) -> TokenizerFiles:
    notes: tuple[str, ...] = ()
    if not isinstance(base, Ranks):
        added = hf_files.read_added(files.configs, len(base.pieces))
        tokenizer = replace(from_model(base), added=added)
    else:
        assumed, note = version_of_file(len(base.tokens), version)
        tokenizer, notes = from_ranks(base, assumed), (note,) if note else ()
    ids = {text: i for i, text in tokenizer.specials.items()}
    roles, wrong = _roles(files, ids, tokenizer.roles)
    return replace(
        files, tokenizer=replace(tokenizer, roles=roles), notes=notes, conflicts=tuple(wrong)
    )


def _roles(files: TokenizerFiles, ids: Mapping[str, int], usual: Roles) -> tuple[Roles, list[str]]:
    names: dict[str, str] = {}
    for name in (hf_files.SPECIALS, hf_files.CONFIG):  # the latter is what transformers believes
        names |= hf_files.role_names(files.configs.get(name, {}))
    return hf_files.find_roles(names, ids, usual)


def _from_json(
    files: TokenizerFiles, base: Base | None, source: JsonTokenizer, where: str, prefer: str
) -> TokenizerFiles:
    """tokenizer.json, with the model file beside it if both say the same."""
    conflicts: list[str] = []
    deviations = list(source.deviations)
    apart = differences(base, source) if base is not None else []
    if base is not None and apart and prefer == "model":
        told = f"{JSON_NAME} is not the tokenizer of {MODEL_NAME}, which is believed: "
        found = _from_base(replace(files, json_file=None), base, None)
        return replace(found, conflicts=(told + "; ".join(apart),))
    if base is None or apart:
        if apart:
            told = f"{MODEL_NAME} is not the tokenizer of {JSON_NAME}, which is believed: "
            conflicts.append(told + "; ".join(apart))
            files = replace(files, model_file=None)
        base = rebuild(source, where)
        deviations += differences(base, source)
    tokenizer = _with_added(base, source)
    ids = {text: i for i, text in tokenizer.specials.items()}
    roles, wrong = _roles(files, ids, tokenizer.roles)
    return replace(
        files,
        tokenizer=replace(tokenizer, roles=roles),
        conflicts=(*conflicts, *wrong),
        deviations=tuple(deviations),
    )


def _with_added(base: Base, source: JsonTokenizer) -> Tokenizer:
    if isinstance(base, Ranks):
        first = len(base.tokens)
        added = tuple(a for a in source.added if a.id >= first)
        version = version_of_names({a.id: a.text for a in added}, first)
        names = {a.text: a.id for a in added}
        roles = Roles(bos=source.bos)
        if version is not None:
            roles = Roles(
                bos=names[version.bos], eos=names[version.eos], pad=names.get(version.pad or "")
            )
        pattern = source.pattern or (version or _NAMELESS).pattern
        return Tokenizer(base, added, roles, version, pattern)
    inside = len(base.pieces)
    added = tuple(a for a in source.added if a.id >= inside)
    return Tokenizer(base, added, base.roles)


_NAMELESS = Version("", "", PATTERN_3, (), "", "", "")
