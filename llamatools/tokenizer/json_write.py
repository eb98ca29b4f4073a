"""tokenizer.json, as the tokenizers library reads it, from a tokenizer.

What each setting is there for, since any one of them missing gives a file that looks right:

- every merge, not one per token (merges.py);
- `ignore_merges` for ranks: a piece that is a token is that token, though merging would not
  reach it;
- the space prefix as a normalizer, for SentencePiece: a Metaspace pre-tokenizer leaves it out
  where the text begins with a space already;
- `byte_fallback` and `fuse_unk`, as SentencePiece treats characters it does not know.
"""

from __future__ import annotations

import json
from typing import Any

from llamatools.tokenizer.bytelevel import to_text
from llamatools.tokenizer.merges import rank_merges, score_merges
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.sentencepiece_model import SPACE, Kind, SentencePieceModel
from llamatools.tokenizer.tokenizer import Added, Tokenizer

NAME = "tokenizer.json"
Json = dict[str, Any]


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The file. Compact: a pretty one of 280,000 merges has over a million lines."""
    base = tokenizer.base
    body = _ranks(tokenizer, base) if isinstance(base, Ranks) else _pieces(tokenizer, base)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(a) for a in added_tokens(tokenizer)],
        **body,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def added_tokens(tokenizer: Tokenizer) -> list[Added]:
    """What stands under added_tokens: specials of the base too, by id."""
    found = {a.id: a for a in tokenizer.added}
    if isinstance(tokenizer.base, SentencePieceModel):
        found |= {i: Added(i, text) for i, text in tokenizer.specials.items()}
        for i in tokenizer.base.of_kind(Kind.USER_DEFINED):
            found.setdefault(i, Added(i, tokenizer.base.pieces[i].text, special=False))
    return [found[i] for i in sorted(found)]


def _added(token: Added) -> Json:
    return {
        "id": token.id,
        "content": token.text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token.special,
    }


def _bpe(vocab: dict[str, int], merges: list[list[str]], **settings: Any) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocab,
        "merges": merges,
    }


def _template(tokenizer: Tokenizer) -> Json | None:
    """The beginning-of-text token in front of every text, where there is one."""
    bos = tokenizer.roles.bos
    if bos is None:
        return None
    name = tokenizer.specials[bos]

    def special(kind: int) -> Json:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(which: str, kind: int) -> Json:
        return {"Sequence": {"id": which, "type_id": kind}}

    return {
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}},
    }


def _byte_level(**settings: bool) -> Json:
    usual = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {"type": "ByteLevel", **usual, **settings}


def _ranks(tokenizer: Tokenizer, ranks: Ranks) -> Json:
    words = [to_text(t) for t in ranks.tokens]
    merges = [[words[left], words[right]] for left, right in rank_merges(ranks)]
    split = {
        "type": "Split",
        "pattern": {"Regex": tokenizer.pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    template = _template(tokenizer)
    byte_level = _byte_level(trim_offsets=False)
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, _byte_level(add_prefix_space=False, use_regex=False)],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [byte_level, *([template] if template else [])],
        },
        "decoder": _byte_level(),
        "model": _bpe({w: i for i, w in enumerate(words)}, merges, ignore_merges=True),
    }


def _replace(what: str, by: str) -> Json:
    return {"type": "Replace", "pattern": {"String": what}, "content": by}


def _pieces(tokenizer: Tokenizer, model: SentencePieceModel) -> Json:
    texts = [p.text for p in model.pieces]
    spaces = _replace(" ", SPACE)
    prefix = {"type": "Prepend", "prepend": SPACE}
    normalizer = {"type": "Sequence", "normalizers": [prefix, spaces]}
    decoders: list[Json] = [_replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = model.of_kind(Kind.UNKNOWN)[0]
    return {
        "normalizer": normalizer if model.dummy_prefix else spaces,
        "pre_tokenizer": None,
        "post_processor": _template(tokenizer),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            {t: i for i, t in enumerate(texts)},
            [[texts[left], texts[right]] for left, right in score_merges(model)],
            unk_token=texts[unknown],
            fuse_unk=True,
            byte_fallback=bool(model.of_kind(Kind.BYTE)),
        ),
    }
