"""The tokenizer goes along with the weights: as it lies there, or in the other layout's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamatools.checkpoint import Checkpoint
from llamatools.errors import BadInput, LlamatoolsError
from llamatools.layouts.hf import HF
from llamatools.text import safe
from llamatools.tokenizer import hf_files, json_write
from llamatools.tokenizer.chat import chat_template
from llamatools.tokenizer.combine import MODEL_NAME, TokenizerFiles
from llamatools.tokenizer.forms import Written, to_hf, to_meta
from llamatools.tokenizer.opening import open_folder, open_tokenizer
from llamatools.tokenizer.proof import settle
from llamatools.tokenizer.sentencepiece_model import Roles
from llamatools.tokenizer.versions import version_of_generation

FILES = frozenset({
    MODEL_NAME, json_write.NAME, hf_files.CONFIG, hf_files.SPECIALS, hf_files.ADDED,
    hf_files.CHAT_TEMPLATE, "chat_template.json", "vocab.json", "merges.txt",
})  # fmt: skip
"""Names of files that are part of a tokenizer."""

NONE = "none"


@dataclass(frozen=True)
class Carried:
    """What becomes of the tokenizer files."""

    documents: Mapping[str, bytes] = field(default_factory=dict)
    instruct: bool = False
    """The model is taken for one that was tuned to chat."""
    replaced: frozenset[str] = frozenset()
    """Files of the source folder that do not travel."""
    roles: Roles | None = None
    """Of the tokenizer that is written, where one was read."""
    given: bool = False
    """The tokenizer is another than the source's own, so that configs must follow its ids."""
    conflicts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    report: Mapping[str, object] | None = None
    """For the manifest: what was converted and checked."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for the tokenizer."""

    to: str
    tokenizer: str | None
    """A path, NONE, or None: what lies beside the weights."""
    instruct: bool
    strict: bool
    verify: bool


def carry(source: Checkpoint, wishes: Wishes) -> Carried:
    """Tokenizer files for a layout. Raises where `strict` forbids a loss, or a check fails."""
    if wishes.tokenizer == NONE:
        return Carried(instruct=wishes.instruct, replaced=FILES)
    hf = wishes.to == "hf" or (wishes.to == "safetensors" and source.layout is HF)
    given = wishes.tokenizer is not None
    if not given and (hf == (source.layout is HF) or not _has_tokenizer(source)):
        return Carried(instruct=wishes.instruct)
    try:
        files = open_for(source, wishes.tokenizer)
        written = _write(source, files, hf=hf, instruct=wishes.instruct)
    except BadInput as e:
        if given or wishes.strict:
            raise
        return Carried(instruct=wishes.instruct, conflicts=(_left_alone(e),))
    return _finish(source, files, written, wishes, given=given)


def _has_tokenizer(source: Checkpoint) -> bool:
    return bool({MODEL_NAME, json_write.NAME} & source.folder.names)


def open_for(source: Checkpoint, path: str | None) -> TokenizerFiles:
    """A tokenizer for a model: that of a path, or the one beside its weights.

    Ranks files get the special tokens of the model's version.
    """
    version = version_of_generation(source.identity.generation.key)
    key = version.key if version else None
    if path is not None:
        return open_tokenizer(Path(path), version=key)
    prefer = "json" if source.layout is HF else "model"
    return open_folder(source.folder, version=key, prefer=prefer)


def _write(source: Checkpoint, files: TokenizerFiles, *, hf: bool, instruct: bool) -> Written:
    if not hf:
        return to_meta(files)
    official = source.identity.official
    # Code Llama 70B Instruct alone has a format that is not its generation's.
    other = official is not None and official.key.startswith("code-llama-70b")
    template = None if other else chat_template(source.identity.generation.key)
    context = source.spec.context or source.identity.context
    return to_hf(files, instruct=instruct, chat_template=template, context=context)


def _left_alone(error: LlamatoolsError) -> str:
    return "the tokenizer was not converted, its files go along as they are: " + "; ".join(
        safe(p, 400) for p in error.problems
    )


def _finish(
    source: Checkpoint, files: TokenizerFiles, written: Written, wishes: Wishes, *, given: bool
) -> Carried:
    rows = _rows(source, written)
    checked = settle(files, written, strict=wishes.strict, verify=wishes.verify, conflicts=rows)
    conflicts = (*files.conflicts, *rows)
    tokenizer = written.tokenizer
    notes = [f"tokenizer: {n}" for n in (*files.notes, *written.notes, *written.losses)]
    if checked is not None and checked.mismatches:
        notes.append(
            f"tokenizer: differs from the source on {checked.mismatches:,} of {checked.texts:,} "
            "texts that were tried"
        )
    replaced = FILES if given else frozenset(written.documents)
    if not given and wishes.to == "hf" and tokenizer.kind == "ranks":
        replaced |= {MODEL_NAME}  # all of it is in tokenizer.json, and comes back from there
    report = {
        "kind": tokenizer.kind,
        "tokens": tokenizer.size,
        "sha256": files.sha256,
        "exact": not written.losses,
        "texts_compared": checked.texts if checked else 0,
        "mismatches": checked.mismatches if checked else 0,
    }
    return Carried(
        written.documents,
        wishes.instruct,
        replaced,
        tokenizer.roles,
        given,
        tuple(f"tokenizer: {c}" for c in conflicts),
        tuple(notes),
        report,
    )


def _rows(source: Checkpoint, written: Written) -> list[str]:
    """A tokenizer with more tokens than the model has rows makes ids that nothing embeds."""
    size, rows = written.tokenizer.size, source.spec.vocab_size
    if size <= rows:
        return []
    return [f"{size:,} tokens, but the model has {rows:,} rows"]
