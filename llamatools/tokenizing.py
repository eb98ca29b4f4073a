"""Tokenizers without a model: converted or merged, and published like any output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llamatools.engine.newfile import write_document
from llamatools.engine.place import staging
from llamatools.engine.publish import publish, publish_file
from llamatools.engine.targets import check_output, check_paths
from llamatools.errors import Unsupported, UsageError
from llamatools.opening.naming import looks_instruct
from llamatools.text import safe
from llamatools.tokenizer.chat import chat_template
from llamatools.tokenizer.combine import MODEL_NAME, TokenizerFiles, read_base
from llamatools.tokenizer.compare import Comparison
from llamatools.tokenizer.forms import Written, to_hf, to_meta
from llamatools.tokenizer.merge import Merged, merge
from llamatools.tokenizer.opening import read_model_file
from llamatools.tokenizer.proof import settle
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import read_pieces
from llamatools.tokenizer.tokenizer import from_model


def convert_tokenizer(
    files: TokenizerFiles,
    out: Path,
    to: str,
    *,
    instruct: bool | None = None,
    strict: bool = False,
    verify: bool = True,
    force: bool = False,
) -> tuple[Written, Comparison | None]:
    """Write a tokenizer as the files of a layout ("hf" or "meta") into the new folder `out`.

    `instruct` None: as the folder's name says. Returns what was written, and how it compared with
    the source.
    """
    check_target(files.path, out, force=force)
    if instruct is None:
        home = files.path if files.path.is_dir() else files.path.parent
        instruct = looks_instruct(home)
    if to == "meta":
        written = to_meta(files)
    else:
        template = chat_template(_generation(files)) if instruct else None
        written = to_hf(files, instruct=instruct, chat_template=template)
    checked = settle(files, written, strict=strict, verify=verify)
    write_files(out, written.documents, force=force)
    return written, checked


def merge_tokenizers(
    base: Path, extra: Path, out: Path, to: str, *, force: bool = False
) -> tuple[Written, Merged]:
    """Extend a SentencePiece model with another's pieces, and write it to `out`."""
    check_target(base, out, force=force)
    check_target(extra, out, force=force)
    model = read_base(read_model_file(base), safe(base))
    if isinstance(model, Ranks):
        raise Unsupported(
            f"{safe(base)}: a ranks file", hint="only SentencePiece vocabularies can be extended"
        )
    merged = merge(model, read_pieces(read_model_file(extra), safe(extra)))
    files = TokenizerFiles(out, from_model(merged.model), merged.model.to_bytes())
    written = to_meta(files) if to == "meta" else to_hf(files)
    write_files(out, written.documents, force=force)
    return written, merged


def _generation(files: TokenizerFiles) -> str:
    """Whose prompt format belongs to a tokenizer that comes without a model."""
    version = files.tokenizer.version
    if version is None and files.tokenizer.kind == "ranks":
        return "unknown"
    return version.key if version else "llama-2"


def check_target(source: Path, out: Path, *, force: bool) -> None:
    """A folder of its own; a tokenizer that is one file may have its output beside it."""
    if source.is_dir():
        check_paths(source, out, force=force)
        return
    src, dst = source.resolve(), out.resolve()
    if dst == src or dst in src.parents:
        raise UsageError(
            f"the output {safe(out)} is the input, or lies around it",
            hint="choose another name for the output",
        )
    check_output(out, force=force)


def write_files(out: Path, documents: Mapping[str, bytes], *, force: bool) -> None:
    """Publish documents as a folder; a lone tokenizer.model as the file OUT.model if so named."""
    if out.suffix == ".model":
        if set(documents) != {MODEL_NAME}:
            raise UsageError(f"{out.name}: several files are to be written: name a folder")
        with staging(out) as folder:
            write_document(folder / out.name, documents[MODEL_NAME])
            publish_file(folder / out.name, out)
        return
    with staging(out, force=force) as folder:
        for name, data in documents.items():
            write_document(folder / name, data)
        publish(folder, out, force=force)
