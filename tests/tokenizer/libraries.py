"""The reference libraries called directly, and tokenizers made once for all tests of this folder.

Nothing here goes through llamatools' own wrappers of those libraries: what is right is decided by
`llama_models`, tiktoken and sentencepiece on the original file.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import sentencepiece
import tiktoken
import tokenizers
from llama_models.llama3.tokenizer import Tokenizer as MetaLlama3
from llama_models.llama4.tokenizer import Tokenizer as MetaLlama4
from support.vocabularies import LLAMA_3, LLAMA_4, MISTRAL, ranks, sentencepiece_model

from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.forms import to_hf
from llamatools.tokenizer.json_write import NAME
from llamatools.tokenizer.opening import open_tokenizer
from llamatools.tokenizer.versions import PATTERN_3

Json = dict[str, Any]
MODEL = "tokenizer.model"
CONFIG = "tokenizer_config.json"
FAMILIES = ("llama-3", "llama-4", "mistral", "small-sp", "small-sp-no-prefix", "small-ranks")
_META = {"llama-3": MetaLlama3, "llama-4": MetaLlama4}


def model_bytes(family: str) -> bytes:
    real = {"llama-3": LLAMA_3, "llama-4": LLAMA_4, "mistral": MISTRAL}
    if family in real:
        return real[family].read_bytes()
    if family == "small-ranks":
        return ranks()
    return sentencepiece_model(add_dummy_prefix=family != "small-sp-no-prefix")


@dataclass(frozen=True)
class Reference:
    """Plain text to ids and back, as the code behind the original file does it."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


@cache
def reference(family: str) -> Reference:
    data = model_bytes(family)
    if family in _META:
        model = meta_code(family).model
        return Reference(model.encode_ordinary, model.decode)
    if family == "small-ranks":
        lines = [line.split() for line in data.splitlines()]
        table = {b64decode(t): int(r) for t, r in lines}
        small = tiktoken.Encoding(
            "small", pat_str=PATTERN_3, mergeable_ranks=table, special_tokens={}
        )
        return Reference(small.encode_ordinary, small.decode)
    return pieces(data)


def pieces(data: bytes) -> Reference:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(data)
    return Reference(processor.encode, processor.decode)


@cache
def meta_code(family: str) -> Any:
    """Meta's Tokenizer class of a family, on its own file."""
    path = {"llama-3": LLAMA_3, "llama-4": LLAMA_4}[family]
    return _META[family](path)


@cache
def opened(family: str) -> TokenizerFiles:
    folder = Path(mkdtemp(prefix="llamatools-test-"))
    try:
        return open_tokenizer(put(folder, model=model_bytes(family)))
    finally:
        (folder / MODEL).unlink()
        folder.rmdir()


@cache
def written(family: str) -> dict[str, bytes]:
    """The files of `to_hf`, by name."""
    return dict(to_hf(opened(family)).documents)


@cache
def document(family: str) -> Json:
    """The tokenizer.json that is written; not to be changed."""
    parsed: Json = json.loads(written(family)[NAME])
    return parsed


def changed(family: str, **parts: object) -> Json:
    """The tokenizer.json that is written, with other values for keys; `model` is merged."""
    original = document(family)
    model = {**original["model"], **parts.pop("model", {})}  # type: ignore[dict-item]
    return {**original, **parts, "model": model}


@cache
def library(family: str) -> Reference:
    """The tokenizers library on what was written, with special tokens' text read as text."""
    return tokenizers_library(written(family)[NAME])


def tokenizers_library(data: bytes) -> Reference:
    loaded = tokenizers.Tokenizer.from_buffer(data)
    loaded.encode_special_tokens = True
    return Reference(
        lambda text: loaded.encode(text, add_special_tokens=False).ids,
        lambda ids: loaded.decode(ids, skip_special_tokens=False),
    )


def mismatches(a: Reference, b: Reference, texts: Sequence[str]) -> list[str]:
    """The texts that two libraries encode or decode in different ways."""
    return [
        t for t in texts if (ids := a.encode(t)) != b.encode(t) or a.decode(ids) != b.decode(ids)
    ]


_FILES = {
    "model": MODEL,
    "json": NAME,
    "config": CONFIG,
    "specials": "special_tokens_map.json",
    "added": "added_tokens.json",
}


def put(folder: Path, **files: object) -> Path:
    """A tokenizer's folder: model=, json=, config=, specials=, added=; bytes, or values of JSON."""
    folder.mkdir(exist_ok=True)
    for key, value in files.items():
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (folder / _FILES[key]).write_bytes(data)
    return folder
