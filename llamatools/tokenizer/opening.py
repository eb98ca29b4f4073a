"""Opening a tokenizer: a file of any of the three forms, or a folder that holds some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatools.containers.base import InputFile
from llamatools.errors import BadInput
from llamatools.jsonio import load_json_object
from llamatools.opening.folder import Folder, scan
from llamatools.text import listing, nbytes, safe
from llamatools.tokenizer import hf_files
from llamatools.tokenizer.combine import MODEL_NAME, Bytes, TokenizerFiles, combine
from llamatools.tokenizer.json_write import NAME as JSON_NAME

MAX_BYTES = 100_000_000


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
    is_json = data.lstrip()[:1] == b"{"
    model, document = (None, data) if is_json else (data, None)
    where = dict.fromkeys((MODEL_NAME, JSON_NAME), safe(path))
    return combine(Bytes(path, model, document, where), version, prefer)


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
    where = {name: safe(folder.path / name) for name in (MODEL_NAME, JSON_NAME)}
    template = (
        _read(folder.path / hf_files.CHAT_TEMPLATE) if hf_files.CHAT_TEMPLATE in names else None
    )
    found = Bytes(folder.path, model, document, where, _configs(folder), template)
    return combine(found, version, prefer)


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
