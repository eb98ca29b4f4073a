"""Two opened tokenizers compared: on texts by their libraries, and in their special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llamatools.text import safe
from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.compare import Comparison, compare
from llamatools.tokenizer.corpus import adversarial, fuzz, tokens_as_texts
from llamatools.tokenizer.forms import source_encoder
from llamatools.tokenizer.tokenizer import Tokenizer


def compare_tokenizers(
    a: TokenizerFiles, b: TokenizerFiles, *, corpus: Sequence[str] = (), n_fuzz: int, seed: int
) -> Comparison:
    """Every token of A as text, the built-in texts, fuzz, and the user's."""
    groups: list[tuple[str, Sequence[str]]] = [
        ("built-in", adversarial()),
        ("tokens", tokens_as_texts(a.tokenizer)),
        ("fuzz", fuzz(a.tokenizer, n_fuzz, seed)),
    ]
    if corpus:
        groups.append(("corpus", corpus))
    result = compare(source_encoder(a), source_encoder(b), groups)
    stated = a.states_roles and b.states_roles
    result.specials = tuple(_special_differences(a.tokenizer, b.tokenizer, roles=stated))
    return result


def _special_differences(a: Tokenizer, b: Tokenizer, *, roles: bool) -> Iterator[str]:
    """By id: names differ between Meta's code and files on the hub, and mean the same."""
    if a.size != b.size:
        yield f"{a.size:,} tokens against {b.size:,}"
    only_a, only_b = (sorted(x.specials.keys() - y.specials.keys()) for x, y in ((a, b), (b, a)))
    for who, only, tokenizer in (("A", only_a, a), ("B", only_b, b)):
        if only:
            first = safe(tokenizer.specials[only[0]])
            yield f"ids that are special in {who} alone: {len(only):,}, from {only[0]} ({first})"
    names_a, names_b = ({t: i for i, t in x.specials.items()} for x in (a, b))
    moved = [t for t in names_a if t in names_b and names_a[t] != names_b[t] and not _reserved(t)]
    for text in moved[:5]:
        yield f"{safe(text)} is {names_a[text]} in A and {names_b[text]} in B"
    for role in ("bos", "eos") if roles else ():
        x, y = getattr(a.roles, role), getattr(b.roles, role)
        if x != y and None not in (x, y):
            yield f"{role} is {x} in A and {y} in B"


def _reserved(text: str) -> bool:
    return "reserved_special_token" in text
