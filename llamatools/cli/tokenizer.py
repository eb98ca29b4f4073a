"""`llamatools tokenizer`: convert, inspect, compare, swap and merge tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamatools.cli.messages import print_json
from llamatools.cli.options import (
    SOURCE,
    force_option,
    instruct_option,
    json_option,
    tokenizer_checks,
)
from llamatools.cli.swap import swap

if TYPE_CHECKING:
    from llamatools.tokenizer.combine import TokenizerFiles

_VERSION = click.option(
    "--version",
    "version",
    type=click.Choice(["llama-3", "llama-3.1", "llama-4"]),
    help="Special tokens of a ranks file, which does not name them; 3.1 is also 3.2's and 3.3's.",
)


def _open(source: str, version: str | None) -> TokenizerFiles:
    """A tokenizer; UsageError where --version is given and the files tell it themselves."""
    from llamatools.errors import UsageError
    from llamatools.tokenizer.opening import open_tokenizer

    files = open_tokenizer(source, version=version)
    told = files.tokenizer.version
    if version is not None and (told is None or told.key != version):
        raise UsageError("--version is for ranks files alone, where the file does not tell")
    return files


@click.group()
def tokenizer() -> None:
    """Convert, inspect, compare, swap and merge tokenizers.

    SRC is tokenizer.model (SentencePiece, or ranks), tokenizer.json, or a folder with either.
    """


@tokenizer.command(short_help="Write a tokenizer in another layout.")
@click.argument("source", type=SOURCE, metavar="SRC")
@click.argument("out", type=SOURCE, metavar="OUT")
@click.option("--to", type=click.Choice(["hf", "meta"]), required=True, help="Layout to write.")
@_VERSION
@instruct_option
@tokenizer_checks
@force_option
@json_option
def convert(
    source: str,
    out: str,
    to: str,
    version: str | None,
    instruct: bool | None,
    strict: bool,
    verify: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the tokenizer SRC in another layout to the new folder OUT.

    The result is compared with the source by the reference library of each side. With --to meta
    OUT may be the name of the file, if it ends in .model.
    """
    from llamatools.tokenizer.report import conversion
    from llamatools.tokenizing import convert_tokenizer

    files = _open(source, version)
    written, checked = convert_tokenizer(
        files, Path(out), to, instruct=instruct, strict=strict, verify=verify, force=force
    )
    report = conversion(files, written, checked)
    if as_json:
        print_json(report)
        return
    from llamatools.cli.render_tokenizer import show_conversion

    show_conversion(out, report)


@tokenizer.command(short_help="Say what a tokenizer is: kind, size, whose file.")
@click.argument("source", type=SOURCE, metavar="SRC")
@_VERSION
@json_option
def inspect(source: str, version: str | None, as_json: bool) -> None:
    """Say what the tokenizer SRC is: kind, size, special tokens, whose file."""
    from llamatools.tokenizer.report import inspection

    report = inspection(_open(source, version))
    if as_json:
        print_json(report)
        return
    from llamatools.cli.render_tokenizer import show_inspection

    show_inspection(report)


@tokenizer.command(short_help="Do two tokenizers give the same ids, and the same text back?")
@click.argument("a", type=SOURCE)
@click.argument("b", type=SOURCE)
@click.option("--corpus", type=SOURCE, metavar="FILE", help="Your own text, in UTF-8.")
@click.option(
    "--fuzz",
    "n_fuzz",
    type=click.IntRange(0, 10_000_000),
    default=2000,
    show_default=True,
    help="Random texts to try.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which random texts.")
@json_option
def compare(a: str, b: str, corpus: str | None, n_fuzz: int, seed: int, as_json: bool) -> int:
    """Do the tokenizers A and B give the same ids, and the same text back? Exit 1 if not.

    Each is run by its reference library (sentencepiece, tiktoken, tokenizers) on every token of A,
    a built-in corpus meant to tell tokenizers apart, random text, and FILE. Special tokens are
    compared by id.
    """
    from llamatools.tokenizer.between import compare_tokenizers
    from llamatools.tokenizer.corpus import read_corpus
    from llamatools.tokenizer.opening import open_tokenizer
    from llamatools.tokenizer.report import comparison

    texts = read_corpus(corpus) if corpus is not None else []
    left, right = open_tokenizer(a), open_tokenizer(b)
    result = compare_tokenizers(left, right, corpus=texts, n_fuzz=n_fuzz, seed=seed)
    if as_json:
        print_json(comparison(a, b, result))
    else:
        from llamatools.cli.render_tokenizer import show_comparison

        show_comparison(a, b, result, left.tokenizer, right.tokenizer)
    return 0 if result.equal else 1


@tokenizer.command(short_help="Extend a SentencePiece vocabulary with another's pieces.")
@click.argument("base", type=SOURCE)
@click.argument("extra", type=SOURCE)
@click.argument("out", type=SOURCE)
@click.option(
    "--to",
    type=click.Choice(["meta", "hf"]),
    default="meta",
    show_default=True,
    help="Files to write: tokenizer.model alone, or tokenizer.json and its configs with it.",
)
@force_option
@json_option
def merge(base: str, extra: str, out: str, to: str, force: bool, as_json: bool) -> None:
    """Extend the SentencePiece model BASE with the pieces of EXTRA that it lacks.

    As Chinese-LLaMA was made: new pieces follow the old ones, with score 0. OUT is a new folder,
    or, if it ends in .model, the file.
    """
    from llamatools.tokenizer.report import merging
    from llamatools.tokenizing import merge_tokenizers

    written, merged = merge_tokenizers(Path(base), Path(extra), Path(out), to, force=force)
    report = merging(written, merged)
    if as_json:
        print_json(report)
        return
    from llamatools.cli.render_tokenizer import show_merging

    show_merging(out, report)


tokenizer.add_command(swap)
