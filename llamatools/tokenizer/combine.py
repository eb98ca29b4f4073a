"""What the files of a tokenizer say together: one tokenizer, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from llamatools.errors import BadInput
from llamatools.text import listing
from llamatools.tokenizer import hf_files
from llamatools.tokenizer.json_read import (
    JsonTokenizer,
    check_no_gaps,
    read_tokenizer_json,
)
from llamatools.tokenizer.json_write import NAME as JSON_NAME
from llamatools.tokenizer.ranks import Ranks, looks_like_ranks, read_ranks
from llamatools.tokenizer.rebuild import Base, differences, rebuild
from llamatools.tokenizer.sentencepiece_model import Roles, SentencePieceModel, read_model
from llamatools.tokenizer.tokenizer import Added, Tokenizer, from_model, from_ranks
from llamatools.tokenizer.versions import PATTERN_3, version_of_file, version_of_names

MODEL_NAME = "tokenizer.model"


@dataclass(frozen=True)
class Bytes:
    """The files of a tokenizer as they lie there, unread."""

    path: Path
    model: bytes | None
    document: bytes | None
    """tokenizer.json."""
    where: Mapping[str, str]
    """How messages call the two, by name."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    template: bytes | None = None
    """chat_template.jinja."""


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
    def has_chat_template(self) -> bool:
        """Whether there is one; or several, as a list in tokenizer_config.json."""
        config = self.configs.get(hf_files.CONFIG, {})
        return self.chat_template is not None or bool(config.get("chat_template"))

    @property
    def states_roles(self) -> bool:
        """Whether a file says which tokens begin and end text: a ranks file does not."""
        return self.tokenizer.kind == "sentencepiece" or bool(self.configs)

    @property
    def sha256(self) -> str:
        data = self.model_file if self.model_file is not None else self.json_file
        return sha256(data or b"").hexdigest()


def combine(found: Bytes, version: str | None, prefer: str) -> TokenizerFiles:
    """One tokenizer of what was found. Of two files that disagree, or of which one is broken, the
    one that is preferred ("json", "model") is believed, if it can be read."""
    files = _unread(found)
    if found.document is None or found.model is None:
        return _of_one(files, found, version)
    preferred_json = prefer == "json"
    try:
        base = read_base(found.model, found.where[MODEL_NAME])
    except BadInput as e:
        if not preferred_json:
            raise
        return _without(files, found, MODEL_NAME, _said(e), version)
    try:
        source = read_tokenizer_json(found.document, found.where[JSON_NAME])
    except BadInput as e:
        if preferred_json:
            raise
        return _without(files, found, JSON_NAME, _said(e), version)
    apart = differences(base, source)
    if apart:
        loser = MODEL_NAME if preferred_json else JSON_NAME
        return _without(files, found, loser, "; ".join(apart), version)
    return _from_json(files, base, source)


def _said(error: BadInput) -> str:
    return "; ".join(error.problems)


def _without(
    files: TokenizerFiles, found: Bytes, loser: str, why: str, version: str | None
) -> TokenizerFiles:
    """The tokenizer of the other file, and why this one was not believed."""
    believed = JSON_NAME if loser == MODEL_NAME else MODEL_NAME
    gone = "model" if loser == MODEL_NAME else "document"
    rest: Bytes = replace(found, **{gone: None})  # type: ignore[arg-type]
    kept = _of_one(_unread(rest), rest, version)
    told = f"{loser} does not say the same as {believed}, which is believed: {why}"
    return replace(kept, conflicts=(told, *kept.conflicts))


def _unread(found: Bytes) -> TokenizerFiles:
    template = found.configs.get(hf_files.CONFIG, {}).get("chat_template")
    if found.template is not None:
        template = found.template.decode(errors="replace")
    return TokenizerFiles(
        path=found.path,
        tokenizer=Tokenizer(Ranks(())),
        model_file=found.model,
        json_file=found.document,
        configs=found.configs,
        chat_template=template if isinstance(template, str) else None,
        template_file=found.template,
    )


def _of_one(files: TokenizerFiles, found: Bytes, version: str | None) -> TokenizerFiles:
    if found.document is not None:
        where = found.where[JSON_NAME]
        source = read_tokenizer_json(found.document, where)
        base = rebuild(source, where)
        apart = tuple(differences(base, source))
        done = _from_json(files, base, source)
        return replace(done, deviations=(*done.deviations, *apart))
    assert found.model is not None
    return _from_base(files, read_base(found.model, found.where[MODEL_NAME]), version)


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
        added = _added(files, base)
        tokenizer = replace(from_model(base), added=added)
    else:
        assumed, note = version_of_file(len(base.tokens), version)
        tokenizer, notes = from_ranks(base, assumed), (note,) if note else ()
    ids = {text: i for i, text in tokenizer.specials.items()}
    roles, wrong = _roles(files, ids, tokenizer.roles)
    return replace(
        files, tokenizer=replace(tokenizer, roles=roles), notes=notes, conflicts=tuple(wrong)
    )


def _added(files: TokenizerFiles, base: SentencePieceModel) -> tuple[Added, ...]:
    """Tokens that configs add to a model; BadInput where they are no tokens of their own."""
    added = hf_files.read_added(files.configs, len(base.pieces))
    check_no_gaps(added, len(base.pieces), hf_files.ADDED)
    texts = [a.text for a in added]
    wrong = [t for t in texts if not t or t in base.ids or texts.count(t) > 1]
    if wrong:
        raise BadInput(
            f"{hf_files.ADDED} or {hf_files.CONFIG}: added tokens that are empty, or that the "
            f"vocabulary has already: {listing(wrong)}"
        )
    return added


def _roles(files: TokenizerFiles, ids: Mapping[str, int], usual: Roles) -> tuple[Roles, list[str]]:
    names: dict[str, str] = {}
    for name in (hf_files.SPECIALS, hf_files.CONFIG):  # the latter is what transformers believes
        names |= hf_files.role_names(files.configs.get(name, {}))
    return hf_files.find_roles(names, ids, usual)


def _from_json(files: TokenizerFiles, base: Base, source: JsonTokenizer) -> TokenizerFiles:
    """tokenizer.json, whose base is known."""
    tokenizer = _with_added(base, source)
    ids = {text: i for i, text in tokenizer.specials.items()}
    roles, wrong = _roles(files, ids, tokenizer.roles)
    return replace(
        files,
        tokenizer=replace(tokenizer, roles=roles),
        conflicts=tuple(wrong),
        deviations=source.deviations,
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
        return Tokenizer(base, added, roles, version, source.pattern or PATTERN_3)
    inside = len(base.pieces)
    added = tuple(a for a in source.added if a.id >= inside)
    return Tokenizer(base, added, base.roles)
