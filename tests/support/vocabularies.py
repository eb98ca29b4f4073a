"""Tokenizer files for tests: real ones out of installed packages, and small ones made here.

Nothing of llamatools makes them: models are trained by sentencepiece, ranks by a few lines here.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections import Counter
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import sentencepiece

TEXT = """The quick brown fox jumps over the lazy dog. It's 1234 o'clock, and we've seen 56 foxes!
def f(x):\n    return x ** 2 + 10\nNaïve café façade — “quoted” text, 你好世界 and ещё немного слов.
the there then this that these those with within without over under lower flower power tower
""".splitlines(keepends=True)


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is not installed"
    return Path(spec.origin).parent


LLAMA_3 = _package("llama_models") / "llama3/tokenizer.model"
LLAMA_4 = _package("llama_models") / "llama4/tokenizer.model"
MISTRAL = _package("mistral_common") / "data/tokenizer.model.v1"
"""A SentencePiece BPE model trained as Llama's: the same options, other text."""
MISTRAL_V3 = _package("mistral_common") / "data/mistral_instruct_tokenizer_240323.model.v3"
"""As above, with hundreds of control pieces, and pieces that users defined."""


@cache
def sentencepiece_model(
    size: int = 420, *, kind: str = "bpe", byte_fallback: bool = True, **options: object
) -> bytes:
    """A trained model with Llama's options, but for those given."""
    out = io.BytesIO()
    settings = {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "character_coverage": 0.99,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 3,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=out,
        vocab_size=size,
        model_type=kind,
        byte_fallback=byte_fallback,
        **settings,
    )
    return out.getvalue()


@cache
def ranks(size: int = 400) -> bytes:
    """A ranks file: byte-pair merges of TEXT, one word at a time, most frequent pair first."""
    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in _words("".join(TEXT)))
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < size:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        tokens.append(best[0] + best[1])
        words = Counter({_merged(w, best): n for w, n in words.items()})
    return b"".join(b64encode(t) + b" %d\n" % i for i, t in enumerate(dict.fromkeys(tokens)))


def _words(text: str) -> list[str]:
    return [f" {w}" for w in text.split()]


def _merged(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    out: list[bytes] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)
