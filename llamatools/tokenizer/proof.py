"""A converted tokenizer held against its source, by the reference library of each side."""

from __future__ import annotations

from collections.abc import Sequence

from llamatools.errors import CheckFailed, NotRepresentable
from llamatools.text import safe
from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.compare import Comparison, Mismatch, compare
from llamatools.tokenizer.corpus import adversarial, fuzz, tokens_as_texts
from llamatools.tokenizer.forms import Written, source_encoder

_TOKENS = 4_000
_FUZZ = 1_000


def settle(
    files: TokenizerFiles,
    written: Written,
    *,
    strict: bool,
    verify: bool,
    conflicts: Sequence[str] = (),
) -> Comparison | None:
    """Whether what was made of a tokenizer may be published; how it compares, if it was compared.

    `conflicts` are further ones than those of the files.
    """
    problems = (*written.losses, *files.conflicts, *conflicts)
    if strict and problems:
        raise NotRepresentable(
            [f"tokenizer: {problem}" for problem in problems],
            hint="--strict allows no loss; without it the files are written, and say so",
        )
    return prove(files, written) if verify else None


def prove(files: TokenizerFiles, written: Written) -> Comparison:
    """Compare on a small corpus. CheckFailed where files differ that were to be equal."""
    tokenizer = files.tokenizer
    every = max(1, tokenizer.base_size // _TOKENS)
    groups = (
        ("built-in", adversarial()),
        ("tokens", tokens_as_texts(tokenizer, every)),
        ("fuzz", fuzz(tokenizer, _FUZZ, seed=0)),
    )
    result = compare(source_encoder(files), written.encoder(), groups)
    if result.first is not None and not written.losses:
        raise CheckFailed(
            f"the converted tokenizer differs from its source on {result.mismatches:,} of "
            f"{result.texts:,} texts: {describe(result.first)}",
            hint="nothing was written; --tokenizer none leaves the tokenizer out",
        )
    return result


def describe(mismatch: Mismatch) -> str:
    """A mismatch in one line."""
    at = mismatch.at
    a, b = (f"{ids[at : at + 4]}" for ids in (mismatch.a, mismatch.b))
    return f"{safe(repr(mismatch.text), 80)} gives other {mismatch.what} from token {at}: {a}, {b}"
