"""tokenizer_config.json and special_tokens_map.json: roles and chat template, written and read.

The class written is PreTrainedTokenizerFast, the one that every version of transformers loads
as tokenizer.json says. The Llama classes rebuild the tokenizer in transformers 5, and then split
text with leading spaces otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamatools.text import safe
from llamatools.tokenizer.json_write import added_tokens
from llamatools.tokenizer.sentencepiece_model import Roles
from llamatools.tokenizer.tokenizer import INFILL, Added, Tokenizer, infill

CONFIG = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
ADDED = "added_tokens.json"
"""What older folders without tokenizer.json name tokens beside tokenizer.model in."""
Json = dict[str, Any]

_ROLES = ("bos", "eos", "pad", "unk")
_NO_LIMIT = int(1e30)
"""How transformers says that a model has no longest text: a number that is no power of ten."""
MAX_DIGITS = len(str(_NO_LIMIT))


def tokenizer_config(
    tokenizer: Tokenizer, *, context: int | None = None, chat_template: str | None = None
) -> Json:
    """tokenizer_config.json. Decoding never tidies up spaces: text comes back as it was."""
    config: Json = {
        "added_tokens_decoder": {str(a.id): _entry(a) for a in added_tokens(tokenizer)},
        **special_tokens_map(tokenizer),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context or _NO_LIMIT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if tokenizer.kind == "sentencepiece" and infill(tokenizer.base):  # type: ignore[arg-type]
        names = ("prefix_token", "suffix_token", "middle_token", "eot_token")
        config |= dict(zip(names, INFILL, strict=True))
    if chat_template is not None:
        config["chat_template"] = chat_template
    return dict(sorted(config.items()))


def special_tokens_map(tokenizer: Tokenizer) -> Json:
    """special_tokens_map.json: the text of each role's token."""
    roles = {role: getattr(tokenizer.roles, role) for role in _ROLES}
    return {
        f"{role}_token": tokenizer.specials[index]
        for role, index in roles.items()
        if index is not None and index in tokenizer.specials
    }


def _entry(token: Added) -> Json:
    return {
        "content": token.text,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": token.special,
    }


def role_names(config: Mapping[str, object]) -> dict[str, str]:
    """role -> the text of its token, from either file; a token may be text or an object."""
    found = {}
    for role in _ROLES:
        value = config.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[role] = text
    return found


def find_roles(
    names: Mapping[str, str], ids: Mapping[str, int], usual: Roles
) -> tuple[Roles, list[str]]:
    """Roles by the names in the configs, else the usual ones; and what does not fit."""
    unknown = [
        f"{role}_token {safe(text)} is no token of the vocabulary"
        for role, text in names.items()
        if text not in ids
    ]
    special = set(ids.values())
    assumed = {r: i for r in _ROLES if (i := getattr(usual, r)) in special}
    found = {r: ids[names[r]] if names.get(r) in ids else assumed.get(r) for r in _ROLES}
    return Roles(**found), unknown


def read_added(configs: Mapping[str, Mapping[str, Any]], first: int) -> tuple[Added, ...]:
    """Tokens from id `first` on that configs add to a tokenizer.model."""
    found: dict[int, Added] = {}
    for text, index in configs.get(ADDED, {}).items():
        if type(index) is int:
            found[index] = Added(index, text)
    decoder = configs.get(CONFIG, {}).get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if key.isdecimal() and key.isascii() and len(key) < 8 and isinstance(content, str):
            found[int(key)] = Added(int(key), content, bool(entry.get("special")))
    return tuple(found[i] for i in sorted(found) if i >= first)
