"""A tokenizer as the files of a layout, and what that layout cannot say of it.

`losses` are sentences, each one a way in which the written files are not the source's equal. An
empty tuple is a promise, which `proof` holds against the reference libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llamatools.jsonio import dump_json
from llamatools.text import count, listing
from llamatools.tokenizer import hf_files, json_write
from llamatools.tokenizer.combine import MODEL_NAME, TokenizerFiles, read_base
from llamatools.tokenizer.encoders import Encoder, json_encoder, meta_encoder
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import (
    Kind,
    Piece,
    SentencePieceModel,
    extended,
)
from llamatools.tokenizer.tokenizer import Tokenizer
from llamatools.tokenizer.versions import VERSIONS, version_of_file


@dataclass(frozen=True)
class Written:
    """Files of a layout, by name."""

    documents: Mapping[str, bytes]
    tokenizer: Tokenizer
    """What the files say."""
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def encoder(self) -> Encoder:
        """The reference library of the layout, on the very bytes that are written."""
        if json_write.NAME in self.documents:
            return json_encoder(self.documents[json_write.NAME])
        base = read_base(self.documents[MODEL_NAME], MODEL_NAME)
        return meta_encoder(replace(self.tokenizer, base=base))


def source_encoder(files: TokenizerFiles) -> Encoder:
    """The reference library of the form a tokenizer was read from."""
    if files.json_file is not None:
        return json_encoder(files.json_file)
    return meta_encoder(files.tokenizer)


def to_hf(
    files: TokenizerFiles,
    *,
    instruct: bool = False,
    chat_template: str | None = None,
    context: int | None = None,
) -> Written:
    """tokenizer.json and its configs; of SentencePiece the model too. The user's own stay."""
    tokenizer = _for_chat(files.tokenizer) if instruct else files.tokenizer
    template = files.chat_template or (chat_template if instruct else None)
    config = hf_files.tokenizer_config(tokenizer, context=context, chat_template=template)
    documents: dict[str, bytes] = {
        json_write.NAME: files.json_file or json_write.tokenizer_json(tokenizer),
        hf_files.CONFIG: dump_json(_own_config(files, config)),
        hf_files.SPECIALS: dump_json(
            files.configs.get(hf_files.SPECIALS, hf_files.special_tokens_map(tokenizer))
        ),
    }
    if files.template_file is not None:
        documents[hf_files.CHAT_TEMPLATE] = files.template_file
    losses: list[str] = []
    if isinstance(tokenizer.base, SentencePieceModel):
        documents[MODEL_NAME] = files.model_file or tokenizer.base.to_bytes()
        if files.json_file is None:
            losses = _json_losses(tokenizer.base)
    return Written(documents, tokenizer, tuple(losses))


def _own_config(files: TokenizerFiles, written: hf_files.Json) -> Mapping[str, object]:
    """The user's own tokenizer_config.json, if there is one.

    To a tokenizer.json that is new belongs the class that loads it as it is: others, and those
    that transformers chooses where none is named, build the tokenizer anew.
    """
    own = files.configs.get(hf_files.CONFIG)
    kept = files.json_file is not None
    if own is None or kept or own.get("tokenizer_class") == written["tokenizer_class"]:
        return own or written
    return {**own, **{k: written[k] for k in ("tokenizer_class", "added_tokens_decoder")}}


def _for_chat(tokenizer: Tokenizer) -> Tokenizer:
    """What ends an answer is the end, for an instruct model."""
    if tokenizer.version is None:
        return tokenizer
    ids = {a.text: a.id for a in tokenizer.added}
    eos = ids[tokenizer.version.end_of_turn]
    return replace(tokenizer, roles=replace(tokenizer.roles, eos=eos))


def _json_losses(model: SentencePieceModel) -> list[str]:
    losses = []
    if model.tied:
        losses.append(
            f"{count(len(model.tied), 'piece')} of {MODEL_NAME} share their score with another "
            f"({listing(model.tied, 3)}): which of them merges first depends on the place in the "
            f"text, which {json_write.NAME} cannot say; {MODEL_NAME} goes along"
        )
    if not model.of_kind(Kind.BYTE):
        losses.append(
            f"{MODEL_NAME} has no pieces for bytes: characters it does not know come back as other "
            "text from each library"
        )
    spelled = [model.pieces[i].text for i in model.of_kind(Kind.USER_DEFINED)]
    if spelled:
        losses.append(
            f"{count(len(spelled), 'piece')} of {MODEL_NAME} are defined by the user "
            f"({listing(spelled, 3)}): spaces around them are not as in {json_write.NAME}"
        )
    return losses


def to_meta(files: TokenizerFiles) -> Written:
    """tokenizer.model: the shipped one if it says all, else one built from tokenizer.json."""
    tokenizer = files.tokenizer
    base = tokenizer.base
    losses = list(files.deviations)
    notes = []
    if isinstance(base, Ranks):
        losses += _ranks_losses(tokenizer, base)
        data = files.model_file or base.to_bytes()
    elif tokenizer.added:
        base = _with_appended(base, tokenizer)
        data = base.to_bytes()
        names = listing(a.text for a in tokenizer.added)
        notes.append(f"{MODEL_NAME} was given pieces for added tokens: {names}")
        tokenizer = replace(tokenizer, base=base, added=())
    else:
        data = files.model_file or base.to_bytes()
    if isinstance(base, SentencePieceModel) and files.json_file is not None:
        spelled = [base.pieces[i].text for i in base.of_kind(Kind.USER_DEFINED)]
        if spelled:
            losses.append(
                f"{count(len(spelled), 'token')} that text can spell ({listing(spelled, 3)}) "
                f"have other spaces around them in {MODEL_NAME}"
            )
    return Written({MODEL_NAME: data}, tokenizer, tuple(losses), tuple(notes))


def _with_appended(model: SentencePieceModel, tokenizer: Tokenizer) -> SentencePieceModel:
    """Added tokens as pieces: special ones as control pieces, which text cannot spell."""
    kinds = {True: Kind.CONTROL, False: Kind.USER_DEFINED}
    return extended(
        model, (Piece(a.text, 0.0, kinds[a.special]) for a in tokenizer.added), MODEL_NAME
    )


def _ranks_losses(tokenizer: Tokenizer, ranks: Ranks) -> list[str]:
    """Where the special tokens are not those that Meta's code puts behind a ranks file."""
    first = len(ranks.tokens)
    versions = [tokenizer.version] if tokenizer.version else list(VERSIONS.values())
    places = {a.text: a.id - first for a in tokenizer.added}
    unlike = {
        v.key: [name for name, at in places.items() if not v.knows(at, name)] for v in versions
    }
    key, renamed = min(unlike.items(), key=lambda item: len(item[1]))
    room = len(VERSIONS[key].specials)
    extra = [a.text for a in tokenizer.added if a.id >= first + room]
    renamed = [name for name in renamed if name not in extra]
    losses = []
    if extra:
        losses.append(
            f"{count(len(extra), 'token')} beyond the {first + room:,} that Meta's code has: "
            f"{listing(extra)}"
        )
    if renamed:
        losses.append(
            f"{count(len(renamed), 'special token')} have names that Meta's code does not know at "
            f"their ids: {listing(renamed)}"
        )
    readable = [a.text for a in tokenizer.added if not a.special]
    if readable:
        losses.append(f"{count(len(readable), 'added token')} are read from plain text in "
                      f"{json_write.NAME}, never by Meta's code: {listing(readable)}")  # fmt: skip
    version = tokenizer.version or version_of_file(len(ranks.tokens))[0]
    if tokenizer.pattern != version.pattern:
        losses.append(
            f"text is cut by another pattern than {version.title}'s, which a ranks file cannot say"
        )
    return losses
