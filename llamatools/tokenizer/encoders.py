"""The reference library of each form of tokenizer, behind one face.

Plain text is encoded, as Meta's code does it: the text of a special token is text like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from llamatools.errors import BadInput
from llamatools.text import safe
from llamatools.tokenizer import wire
from llamatools.tokenizer.json_write import tokenizer_json
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.tokenizer import Tokenizer

Ids = list[int]


class Encoder(Protocol):
    """What `compare` needs of a library."""

    library: str

    def encode(self, texts: Sequence[str]) -> list[Ids]: ...

    def decode(self, ids: Sequence[Ids]) -> list[str]: ...


@contextmanager
def _asking(library: str) -> Iterator[None]:
    """The libraries raise nothing more precise than Exception for a file they do not take; those
    written in Rust may panic, which is no Exception even."""
    try:
        yield
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        raise BadInput(f"the {library} library cannot use the tokenizer: {safe(e)}") from None


_NO_PREFIX = wire.field(3, wire.field(3, 0))
"""A normalizer_spec that says nothing but that text gets no space in front."""


class _SentencePiece:
    library = "sentencepiece"

    def __init__(self, data: bytes, *, prefix: bool = True) -> None:
        import sentencepiece

        # Protocol buffers that follow each other are one: what comes last counts.
        settings = b"" if prefix else _NO_PREFIX
        self._processor = sentencepiece.SentencePieceProcessor()
        with _asking(self.library):
            self._processor.LoadFromSerializedProto(data + settings)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        with _asking(self.library):
            encoded: list[Ids] = self._processor.encode(list(texts))
        return encoded

    def decode(self, ids: Sequence[Ids]) -> list[str]:
        size = self._processor.get_piece_size()
        return [self._processor.decode([i for i in one if i < size]) for one in ids]


class _Tiktoken:
    library = "tiktoken"

    def __init__(self, tokenizer: Tokenizer, ranks: Ranks) -> None:
        import tiktoken

        special = {a.text: a.id for a in tokenizer.added}
        with _asking(self.library):
            self._encoding = tiktoken.Encoding(
                "llama",
                pat_str=tokenizer.pattern,
                mergeable_ranks=ranks.rank,
                special_tokens=special,
            )

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        with _asking(self.library):
            return [self._encoding.encode_ordinary(text) for text in texts]

    def decode(self, ids: Sequence[Ids]) -> list[str]:
        return [self._encoding.decode(one) for one in ids]


class _Tokenizers:
    library = "tokenizers"

    def __init__(self, data: bytes) -> None:
        import tokenizers

        with _asking(self.library):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        with _asking(self.library):
            batch = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in batch]

    def decode(self, ids: Sequence[Ids]) -> list[str]:
        return self._tokenizer.decode_batch([list(one) for one in ids], skip_special_tokens=False)


def meta_encoder(tokenizer: Tokenizer, *, prefix: bool = True) -> Encoder:
    """The library Meta's code uses for a tokenizer's base: tiktoken or sentencepiece."""
    base = tokenizer.base
    if isinstance(base, Ranks):
        return _Tiktoken(tokenizer, base)
    return _SentencePiece(base.to_bytes(), prefix=prefix)


def json_encoder(data: bytes) -> Encoder:
    """The tokenizers library on a tokenizer.json."""
    return _Tokenizers(data)


def hf_encoder(tokenizer: Tokenizer) -> Encoder:
    """The tokenizers library on the tokenizer.json that is written for a tokenizer."""
    return _Tokenizers(tokenizer_json(tokenizer))
