"""Prompts a model is asked by default, and prompts from a file.

text-*          short texts through the model's own tokenizer, where it has one
edges-*         the first and the last row of the vocabulary, each at position 0 once
seeded-N        N contiguous positions of ids drawn from BLAKE3's output stream
gapped-64       positions 0..31 and 4096..4127: what rope scaling changes shows at long range
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from llamatools.checkpoint import Checkpoint
from llamatools.containers.base import InputFile
from llamatools.errors import BadInput, LlamatoolsError
from llamatools.jsonio import load_json_object
from llamatools.reference.observe import Prompt
from llamatools.reference.packing import prompt_problems
from llamatools.text import listing, nbytes, safe
from llamatools.tokenizer.encoders import Encoder, meta_encoder
from llamatools.tokenizer.opening import open_folder
from llamatools.tokenizer.report import digest

_TEXTS = {
    "text-prose": "The quick brown fox jumps over the lazy dog, and nobody was surprised: it had "
    "done so every morning since the spring of 1914.",
    "text-code": "def mean(values):\n    total = 0.0\n    for v in values:\n        total += v\n"
    "    return total / len(values)\n",
    "text-scripts": "Съешь ещё этих мягких французских булок. いろはにほへと ちりぬるを. "
    "天地玄黄。",
    "text-facts": "Paris is the capital of France. Rome is the capital of Italy. Lima is the "
    "capital of Peru. Oslo is the capital of",
    "text-numbers": "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377 😀 e\u0301 -- 3.14159",
}
_LENGTHS = (8, 64, 512)
_HALF = 32
_FAR = 4096
_MAX_FILE = 100_000_000
MAX_PROMPTS = 4096
MAX_POSITIONS = 1 << 20
"""Of one prompt."""


@dataclass(frozen=True)
class Prompts:
    """What is asked, and what is to be said of it."""

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """A model's tokenizer, as far as prompts need it."""

    encoder: Encoder
    bos: int | None
    digest: str

    def ids(self, text: str) -> list[int]:
        """A text as a model is given it: after the token that begins one."""
        return [*([] if self.bos is None else [self.bos]), *self.encoder.encode([text])[0]]


def contiguous(name: str, tokens: list[int]) -> Prompt:
    return Prompt(name, tuple(tokens), tuple(range(len(tokens))))


def find_words(checkpoint: Checkpoint) -> tuple[Words | None, tuple[str, ...]]:
    """The tokenizer beside the weights; none, and why, where there is none that can be used."""
    if not {"tokenizer.model", "tokenizer.json"} & checkpoint.folder.names:
        return None, ()
    try:
        files = open_folder(checkpoint.folder)
        tokenizer = files.tokenizer
        return Words(meta_encoder(tokenizer), tokenizer.roles.bos, digest(tokenizer)), ()
    except LlamatoolsError as e:
        return None, (f"the tokenizer is not used: {e.problems[0]}",)


def default_prompts(checkpoint: Checkpoint) -> Prompts:
    """The prompts above, as far as the model's vocabulary and context allow."""
    size = checkpoint.spec.vocab_size
    context = checkpoint.spec.context or checkpoint.identity.context
    words, notes = find_words(checkpoint)
    texts, more = _texts(words, size, context)
    gapped = _gapped(size, context)
    return Prompts(
        (*texts, *_edges(size, context), *_seeded(size, context), *gapped.prompts),
        (*notes, *more, *_shortened(context), *gapped.notes),
    )


def drawn_ids(name: str, n: int, size: int) -> list[int]:
    """n ids below `size`: 64-bit little-endian words of BLAKE3's stream for a name, modulo."""
    data = blake3(f"llamatools prompt 1 {name}".encode()).digest(length=8 * n)
    return [int.from_bytes(data[i : i + 8], "little") % size for i in range(0, 8 * n, 8)]


def _texts(words: Words | None, size: int, context: int) -> tuple[list[Prompt], list[str]]:
    if words is None:
        return [], []
    found = [contiguous(name, words.ids(text)[:context]) for name, text in _TEXTS.items()]
    fit = [p for p in found if p.tokens and max(p.tokens) < size]
    if len(fit) == len(found):
        return fit, []
    left = listing(p.name for p in found if p not in fit)
    return fit, [f"texts left out, since the embedding has no rows for their tokens: {left}"]


def _edges(size: int, context: int) -> list[Prompt]:
    if size < 2 or context < 2:
        return [contiguous("edges-up", [0])]
    return [contiguous("edges-up", [0, size - 1]), contiguous("edges-down", [size - 1, 0])]


def _seeded(size: int, context: int) -> Iterator[Prompt]:
    for n in sorted({min(n, context) for n in _LENGTHS}):
        yield contiguous(f"seeded-{n}", drawn_ids(f"seeded-{n}", n, size))


def _shortened(context: int) -> list[str]:
    if context >= max(_LENGTHS):
        return []
    return [f"seeded prompts have at most {context:,} positions, the model's context"]


def _gapped(size: int, context: int) -> Prompts:
    """Two runs of positions, the second as far away as the context allows."""
    if context < 4 * _HALF:
        return Prompts(
            (), (f"the prompt with a gap is left out: the context is {context:,}; what goes wrong "
                 "at long range alone is not seen",)
        )  # fmt: skip
    far = min(_FAR, context - _HALF)
    positions = (*range(_HALF), *range(far, far + _HALF))
    name = f"gapped-{2 * _HALF}"
    prompt = Prompt(name, tuple(drawn_ids(name, len(positions), size)), positions)
    if far == _FAR:
        return Prompts((prompt,))
    note = f"the prompt with a gap ends at position {far + _HALF - 1:,}, not {_FAR + _HALF - 1:,}"
    return Prompts((prompt,), (f"{note}: the context is {context:,}",))


def read_prompts(path: Path, checkpoint: Checkpoint) -> Prompts:
    """JSON lines: {"name", "text"} or {"name", "ids", "positions"}; name and positions optional."""
    words, notes = find_words(checkpoint)
    found, problems = [], []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{safe(path)} line {number}"
        try:
            data = load_json_object(line, where)
            found.append(_from_line(data, where, number, words))
            problems += problems_of(found[-1], checkpoint.spec.vocab_size, where)
        except BadInput as e:
            problems += e.problems
    if not found and not problems:
        problems = [f"{safe(path)}: holds no prompt"]
    if len(found) > MAX_PROMPTS:
        problems.append(f"{safe(path)}: {len(found):,} prompts; at most {MAX_PROMPTS:,} are taken")
    names = [p.name for p in found]
    if len(set(names)) != len(names):
        problems.append(f"{safe(path)}: two prompts have one name")
    if problems:
        raise BadInput(problems, hint='a line is {"text": "..."} or {"ids": [...]}, as JSON')
    return Prompts(tuple(found), notes)


def _lines(path: Path) -> list[bytes]:
    file = InputFile(path)
    try:
        if file.size > _MAX_FILE:
            raise BadInput(f"{safe(path)}: {nbytes(file.size)} of prompts is too much")
        return file.read(0, file.size).splitlines()
    finally:
        file.close()


_KEYS = frozenset({"name", "text", "ids", "positions"})


def _from_line(data: dict[str, object], where: str, number: int, words: Words | None) -> Prompt:
    """BadInput where a line is no prompt."""
    name, text, ids, positions = (data.get(k) for k in ("name", "text", "ids", "positions"))
    problems = [f"{where}: unknown key {safe(k)}" for k in sorted(data.keys() - _KEYS)]
    if name is None:
        name = f"line-{number}"
    if not isinstance(name, str) or not 0 < len(name) <= 100:
        problems.append(f"{where}: name: expected a string of 1 to 100 characters")
    if (text is None) == (ids is None):
        problems.append(f"{where}: expected text or ids, one of them")
    elif text is not None and not isinstance(text, str):
        problems.append(f"{where}: text: expected a string")
    elif text is not None and words is None:
        problems.append(f"{where}: a text, but there is no tokenizer beside the weights")
    if ids is not None and not _are_counts(ids):
        problems.append(f"{where}: ids: expected an array of whole numbers")
    if positions is not None and (ids is None or not _are_counts(positions)):
        problems.append(f"{where}: positions: expected an array of whole numbers, beside ids")
    if problems:
        raise BadInput(problems)
    if isinstance(text, str) and words is not None:
        tokens = words.ids(text)
    else:
        assert isinstance(ids, list)
        tokens = ids
    at = positions if isinstance(positions, list) else range(len(tokens))
    return Prompt(str(name), tuple(tokens), tuple(at))


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    )


def problems_of(prompt: Prompt, vocab_size: int, where: str) -> list[str]:
    """What no forward pass can run, whichever file it is from."""
    if len(prompt.tokens) > MAX_POSITIONS:
        return [f"{where}: {len(prompt.tokens):,} tokens are too many"]
    return [f"{where}: {problem}" for problem in prompt_problems(prompt, vocab_size)]
