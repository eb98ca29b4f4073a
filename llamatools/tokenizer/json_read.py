"""tokenizer.json read: its vocabulary and merges, and how far it behaves as a Llama tokenizer.

The file is a program of sorts: normalizers, pre-tokenizers and flags decide what the same
vocabulary does to text. What differs from the two forms that Meta's files have is collected in
`deviations`, one sentence each.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from llamatools.errors import BadInput, Unsupported
from llamatools.jsonio import load_json_object
from llamatools.text import count, listing, safe
from llamatools.tokenizer.limits import MAX_TOKEN_BYTES, MAX_TOKENS
from llamatools.tokenizer.sentencepiece_model import SPACE
from llamatools.tokenizer.tokenizer import Added

Json = dict[str, Any]
_MAX_STEPS = 20_000
"""Characters of the steps that cut text, patterns included: compiling a long one takes its time."""


@dataclass(frozen=True)
class JsonTokenizer:
    """What a tokenizer.json says."""

    byte_level: bool
    """Tokens are bytes in the byte-level alphabet; else text, in SentencePiece's manner."""
    vocab: tuple[str, ...]
    """By id, from 0 on, without a gap."""
    merges: tuple[tuple[str, str], ...]
    added: tuple[Added, ...]
    """Everything under added_tokens, by id; some may be in the vocabulary too."""
    unknown: str | None
    byte_fallback: bool
    dummy_prefix: bool
    pattern: str | None
    """The regular expression that cuts text, where there is one."""
    bos: int | None
    """What the post-processor puts in front of a text."""
    deviations: tuple[str, ...]


def read_tokenizer_json(data: bytes, where: str) -> JsonTokenizer:
    """BadInput for a broken file, Unsupported for one that is not BPE of either form."""
    document = load_json_object(data, where)
    model = _object(document, "model", where)
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise Unsupported(
            f"{where}: a tokenizer of kind {safe(kind)}, not BPE", hint="Llama tokenizers are BPE"
        )
    added = _added(document.get("added_tokens") or [], where)
    vocab = _vocab(_object(model, "vocab", where), added, where)
    check_no_gaps(added, len(vocab), where)
    known = set(vocab)
    merges = _merges(model.get("merges"), known, where)
    steps = _Steps(document)
    if len(json.dumps(steps.of("pre_tokenizer"))) > _MAX_STEPS:
        raise BadInput(f"{where}: pre_tokenizer: longer than any has")
    byte_level = steps.has("pre_tokenizer", "ByteLevel") or steps.has("decoder", "ByteLevel")
    deviations = [
        *_flags(model, byte_level=byte_level),
        *_greedy(document.get("added_tokens")),
    ]
    read = _byte_level if byte_level else _sentencepiece
    dummy_prefix, pattern, differences = read(steps)
    return JsonTokenizer(
        byte_level=byte_level,
        vocab=vocab,
        merges=merges,
        added=added,
        unknown=model.get("unk_token") if isinstance(model.get("unk_token"), str) else None,
        byte_fallback=bool(model.get("byte_fallback")),
        dummy_prefix=dummy_prefix,
        pattern=pattern,
        bos=_bos(steps, added),
        deviations=(*deviations, *differences),
    )


def _object(parent: Json, key: str, where: str) -> Json:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise BadInput(f"{where}: {key}: expected an object: not a tokenizer.json")
    return value


def _added(entries: object, where: str) -> tuple[Added, ...]:
    found = []
    for e in entries if isinstance(entries, list) else [None]:
        if not isinstance(e, dict):
            raise BadInput(f"{where}: added_tokens: expected an array of objects")
        index, text = e.get("id"), e.get("content")
        if type(index) is not int or not 0 <= index < MAX_TOKENS or not isinstance(text, str):
            raise BadInput(f"{where}: added_tokens: no id, or no content: {safe(e, 80)}")
        found.append(Added(index, text, bool(e.get("special"))))
    _no_doubles([a.id for a in found], f"{where}: added_tokens: ids that stand there twice")
    _no_doubles([a.text for a in found], f"{where}: added_tokens: texts that stand there twice")
    return tuple(sorted(found, key=lambda a: a.id))


def check_no_gaps(added: tuple[Added, ...], first: int, where: str) -> None:
    """BadInput where added tokens do not follow the vocabulary one by one.

    The tokenizers library numbers them so, whatever ids a file gives them.
    """
    ids = [a.id for a in added if a.id >= first]
    if ids != list(range(first, first + len(ids))):
        raise BadInput(
            f"{where}: added tokens have the ids {listing(ids)}, "
            f"which do not follow the last of the vocabulary, {first - 1}"
        )


def _no_doubles(items: list[Any], problem: str) -> None:
    twice = [i for i, n in Counter(items).items() if n > 1]
    if twice:
        raise BadInput(f"{problem}: {listing(twice)}")


def _vocab(vocab: Json, added: tuple[Added, ...], where: str) -> tuple[str, ...]:
    """Tokens by id. Some files list added tokens in the vocabulary as well, after the others."""
    long = [t for t in (*vocab, *(a.text for a in added)) if len(t) > MAX_TOKEN_BYTES]
    if long:
        raise BadInput(f"{where}: tokens longer than any has: {listing(safe(t, 40) for t in long)}")
    ids = list(vocab.values())
    if any(type(i) is not int or not 0 <= i < MAX_TOKENS for i in ids):
        raise BadInput(f"{where}: vocab: expected whole numbers for ids")
    _no_doubles(ids, f"{where}: vocab: ids that stand there twice")
    clash = [a.text for a in added if vocab.get(a.text, a.id) != a.id]
    if clash:
        raise BadInput(f"{where}: tokens with two ids: {listing(clash)}")
    by_id = {i: text for text, i in vocab.items()}
    size = max(by_id, default=-1) + 1
    # Ids within the vocabulary that only added_tokens name are tokens of the vocabulary too.
    by_id |= {a.id: a.text for a in added if a.id < size}
    missing = [i for i in range(size) if i not in by_id]
    if missing or not size:
        raise BadInput(f"{where}: vocab: ids are missing: {listing(missing) or 'all'}")
    return tuple(by_id[i] for i in range(size))


def _merges(entries: object, known: set[str], where: str) -> tuple[tuple[str, str], ...]:
    """Pairs, from either spelling: ["a", "b"], or "a b" as older versions write it."""
    if not isinstance(entries, list):
        raise BadInput(f"{where}: merges: expected an array")
    out = []
    for e in entries:
        pair = e.split(" ") if isinstance(e, str) else e
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise BadInput(f"{where}: merges: expected two tokens, found {safe(e, 60)}")
        left, right = pair
        if left not in known or right not in known or left + right not in known:
            raise BadInput(f"{where}: merges: {safe(e, 60)}: not all of it is in the vocabulary")
        out.append((left, right))
    return tuple(out)


_INNER = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}


class _Steps:
    """The processing steps of a document, sequences opened."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def of(self, part: str) -> list[Json]:
        """Every step of a part, in order."""
        step = self._document.get(part)
        inner = step.get(_INNER[part]) if isinstance(step, dict) else None
        steps = inner if isinstance(inner, list) else [step]
        return [s for s in steps if isinstance(s, dict)]

    def has(self, part: str, kind: str) -> bool:
        return any(s.get("type") == kind for s in self.of(part))

    def kinds(self, part: str) -> str:
        return " + ".join(safe(s.get("type"), 30) for s in self.of(part)) or "none"


def _flags(model: Json, *, byte_level: bool) -> list[str]:
    expected = {
        "dropout": (None, 0, 0.0),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
    }
    if byte_level:
        expected["ignore_merges"] = (True,)
        expected["byte_fallback"] = (False, None)
    else:
        expected["ignore_merges"] = (False, None)
        expected["fuse_unk"] = (True,)
    return [
        f"model.{key} is {safe(model.get(key))}"
        for key, values in expected.items()
        if not any(model.get(key) is v or model.get(key) == v for v in values)
    ]


def _greedy(entries: object) -> list[str]:
    """Added tokens that take more, or less, of a text than they spell."""
    flags = ("lstrip", "rstrip", "single_word")
    tokens = entries if isinstance(entries, list) else []
    found = [t.get("content") for t in tokens if any(t.get(flag) for flag in flags)]
    if not found:
        return []
    return [f"{count(len(found), 'added token')} also ask what stands beside: {listing(found)}"]


def _byte_level(steps: _Steps) -> tuple[bool, str | None, list[str]]:
    """(no prefix, the pattern, deviations) of a file that splits text into bytes."""
    problems = []
    if steps.of("normalizer"):
        problems.append(f"text is normalized ({steps.kinds('normalizer')})")
    cuts = steps.of("pre_tokenizer")
    split = cuts[0] if [s.get("type") for s in cuts] == ["Split", "ByteLevel"] else {}
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    isolated = split.get("behavior") == "Isolated" and not split.get("invert")
    byte_steps = [s for s in cuts if s.get("type") == "ByteLevel"]
    if not isolated or not isinstance(regex, str):
        problems.append(f"text is cut in another way ({steps.kinds('pre_tokenizer')})")
    if any(s.get("add_prefix_space", True) or s.get("use_regex", True) for s in byte_steps):
        problems.append("the ByteLevel step adds a space or cuts text by itself")
    if [s.get("type") for s in steps.of("decoder")] != ["ByteLevel"]:
        problems.append(f"tokens are decoded in another way ({steps.kinds('decoder')})")
    return False, regex if isinstance(regex, str) else None, problems


def _sentencepiece(steps: _Steps) -> tuple[bool, str | None, list[str]]:
    """(dummy prefix, no pattern, deviations) of a file that works on text with ▁ for spaces."""
    spaces, prefix = False, False
    problems = []
    for step in steps.of("normalizer"):
        kind = step.get("type")
        if kind == "Replace" and step.get("content") == SPACE:
            spaces = step.get("pattern") == {"String": " "}
        elif kind == "Prepend" and step.get("prepend") == SPACE and not spaces:
            prefix = True
        else:
            problems.append(f"text is normalized in another way ({steps.kinds('normalizer')})")
    for step in steps.of("pre_tokenizer"):
        if step.get("type") != "Metaspace" or step.get("replacement") != SPACE:
            problems.append(f"text is cut in another way ({steps.kinds('pre_tokenizer')})")
            continue
        scheme = step.get("prepend_scheme")
        spaces = True
        if step.get("split", True):
            problems.append("Metaspace cuts text at spaces, so that no token holds one inside")
        if scheme != "never" and step.get("add_prefix_space") is not False:
            prefix = True
            problems.append(
                "Metaspace puts no space before text that begins with one, which SentencePiece does"
            )
    if not spaces:
        problems.append("spaces are not written as ▁")
    decoders = ["Replace", "ByteFallback", "Fuse", *(["Strip"] if prefix else [])]
    if [s.get("type") for s in steps.of("decoder")] != decoders:
        problems.append(f"tokens are decoded in another way ({steps.kinds('decoder')})")
    return prefix, None, problems


def _bos(steps: _Steps, added: tuple[Added, ...]) -> int | None:
    """The id of the first special token of the template for one text."""
    ids = {a.text: a.id for a in added}
    for step in steps.of("post_processor"):
        single = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            first = single[0].get("SpecialToken") if isinstance(single[0], dict) else None
            name = first.get("id") if isinstance(first, dict) else None
            if isinstance(name, str):
                return ids.get(name)
    return None
