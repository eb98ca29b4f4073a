"""What ranks files leave to code: the pattern that splits text, and the special tokens, by version.

A ranks file ends before the special tokens; their names and ids stand in Meta's code and in
Hugging Face's files, under different names at some ids. The lists here are those of the files on
the hub; `aliases` holds the names that Meta's code has for the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERN_3 = _CASELESS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + _REST % ""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERN_4 = "|".join(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{upper}{_LOWER}{lower}{_CASELESS}?"
    for upper, lower in (("*", "+"), ("+", "*"))
) + "|" + _REST % "/"  # fmt: skip


@dataclass(frozen=True)
class Version:
    """One version's special tokens, which follow the tokens of the ranks file."""

    key: str
    title: str
    pattern: str
    specials: tuple[str, ...]
    bos: str
    eos: str
    end_of_turn: str
    """What ends an answer of an instruct model."""
    pad: str | None = None
    aliases: Mapping[str, int] = field(default_factory=dict)
    """Other names in use -> place in `specials`."""

    def knows(self, place: int, name: str) -> bool:
        """Whether a token may be called `name` there: any reserved one is like another."""
        if not 0 <= place < len(self.specials):
            return False
        own = self.specials[place]
        reserved = "reserved_special_token" in own and "reserved_special_token" in name
        return name == own or reserved or self.aliases.get(name) == place


def _reserved(count: int, start: int = 0, prefix: str = "") -> tuple[str, ...]:
    return tuple(f"<|{prefix}reserved_special_token_{i}|>" for i in range(start, start + count))


_LLAMA_3 = (
    "<|begin_of_text|>", "<|end_of_text|>", *_reserved(4),
    "<|start_header_id|>", "<|end_header_id|>", *_reserved(1, 4),
    "<|eot_id|>", *_reserved(246, 5),
)  # fmt: skip

_LLAMA_31 = (
    "<|begin_of_text|>", "<|end_of_text|>", *_reserved(2), "<|finetune_right_pad_id|>",
    *_reserved(1, 2), "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", *_reserved(245, 3),
)  # fmt: skip

_LLAMA_4_NAMED = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>",
    *_reserved(6, 0, "text_post_train_"), "<|python_start|>", "<|python_end|>",
    "<|finetune_right_pad|>", *_reserved(61, 8, "text_post_train_"),
    "<|image_start|>", "<|image_end|>", *_reserved(2, 0, "vision_"),
    "<|tile_x_separator|>", "<|tile_y_separator|>", *_reserved(4, 2, "vision_"),
    "<|image|>", *_reserved(1, 6, "vision_"), "<|patch|>", *_reserved(1041, 7, "vision_"),
    *_reserved(8, 0, "reasoning_"), "<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>",
)  # fmt: skip
_LLAMA_4 = (*_LLAMA_4_NAMED, *_reserved(2048 - len(_LLAMA_4_NAMED)))

VERSIONS = {
    v.key: v
    for v in (
        Version(
            "llama-3", "Llama 3", PATTERN_3, _LLAMA_3,
            "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
        ),
        # Meta's code calls 128005 step_id, 128011 image, and so counts the reserved differently.
        Version(
            "llama-3.1", "Llama 3.1, 3.2 or 3.3", PATTERN_3, _LLAMA_31,
            "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>",
            {"<|step_id|>": 5, "<|image|>": 11},
        ),
        Version(
            "llama-4", "Llama 4", PATTERN_4, _LLAMA_4,
            "<|begin_of_text|>", "<|end_of_text|>", "<|eot|>", "<|finetune_right_pad|>",
        ),
    )
}  # fmt: skip

_BY_GENERATION = {"llama-3.2": "llama-3.1"}
_LLAMA_4_RANKS = 200_000
_LLAMA_3_RANKS = 128_000


def version_of_generation(generation: str) -> Version | None:
    """The special tokens of a generation of models; None for those of SentencePiece."""
    return VERSIONS.get(_BY_GENERATION.get(generation, generation))


def version_of_file(n_ranks: int, hint: str | None = None) -> tuple[Version, str | None]:
    """(version, what had to be assumed) of a ranks file; `hint` is a version's key."""
    if n_ranks == _LLAMA_4_RANKS:
        return VERSIONS["llama-4"], None
    if hint is not None:
        return VERSIONS[hint], None
    assumed = VERSIONS["llama-3.1"]
    if n_ranks == _LLAMA_3_RANKS:
        note = "Llama 3 and 3.1 have one ranks file; the special tokens are named as in 3.1"
        return assumed, note
    return assumed, f"{n_ranks:,} ranks are no official file's; the rest is taken as in Llama 3.1"


def version_of_names(names: Mapping[int, str], first: int) -> Version | None:
    """The version whose special tokens have these names at these ids, all of them."""
    for version in VERSIONS.values():
        if names == dict(enumerate(version.specials, first)):
            return version
    return None
