"""Official tokenizer files, by digest; and what a vocabulary's size says where that is unknown."""

from __future__ import annotations

from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.rebuild import LLAMA_2_SHA256
from llamatools.tokenizer.sentencepiece_model import SentencePieceModel
from llamatools.tokenizer.tokenizer import infill

_FILES = {
    LLAMA_2_SHA256: "Llama 1 and 2",
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": "Llama 3",
    "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed": "Llama 4",
}


def official_name(files: TokenizerFiles) -> str | None:
    """Whose official vocabulary this is, to the byte; None for others.

    A tokenizer.json is compared by the model file it comes back as.
    """
    from hashlib import sha256

    base = files.tokenizer.base
    found = _FILES.get(sha256(files.model_file or base.to_bytes()).hexdigest())
    if found is None and isinstance(base, SentencePieceModel) and infill(base):
        return "Code Llama" if len(base.pieces) == 32016 else None
    return found
