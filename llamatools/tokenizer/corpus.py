"""Texts that tell tokenizers apart: an adversarial list, tokens as texts, and seeded fuzz."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from llamatools.errors import BadInput, IOFailed
from llamatools.text import nbytes, safe
from llamatools.tokenizer.tokenizer import Tokenizer

_RUNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000)
_LONGEST = 20_000
"""Characters of one text: Meta's code, too, cuts longer runs before it encodes them."""
_MAX_CORPUS = 1 << 30

_SENTENCES = (
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "I'm sure they'll've gone.",
    "DON'T SHOUT, WE'RE HERE; IT'S O'CLOCK", "don’t use curly’s", "naïve café, Zürich, Łódź",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "if (a<b && c>=d) { x++; }",
    "https://example.com/a/b?c=d&e=%20#top", "user@example.com", "C:\\Windows\\System32",
    '{"a": [1, 2.5, -3e-7, null, true]}', "<html><body class='x'>&nbsp;</body></html>",
    "SELECT * FROM t WHERE a = 'b''c';", "\\frac{a}{b} $x_1^2$ \\\\", "#version 330 core\n",
    "Съешь ещё этих мягких французских булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "עטלף אבק נס דרך מזגן", "نص حكيم له سر قاطع وذو شأن عظيم", "ऋषियों को सताने वाले दुष्ट",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า", "키스의 고유조건은 입술끼리 만나야 하고",
    "いろはにほへと ちりぬるを カタカナ",
    "天地玄黄,宇宙洪荒。日月盈昃", "你好,世界!这是一个测试。", "𠮷野家で𩸽",
    "Việt Nam đất nước ta ơi",
    "😀😃👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇫🇷❤️", "1️⃣2️⃣ ™©®", "e\u0301 a\u0308 o\u0302\u0323", "Å Å Å",
    "ﬁ ﬂ Ǆ ǅ ß ẞ İ ı ſ K", "½ ² ₃ ① Ⅳ ৪ ٣ 六", "→ ∑ ∫ √ ≠ ∞ ⇒", "„Anführung“ «citation» 「引用」",
    "a\u200bb\u200cc\u200dd\ufeffe", "\u202eright to left\u202c",
    "\u00a0no\u00a0break\u3000wide\u2003em\u2028line\u2029paragraph",
    "\x00\x01\x02\x1b[31m\x7f\x80\x9f", "\ue000\uf8ff\U000f0000\U0010ffff\ufffd\ufffe", "▁", "▁▁",
    " ▁ ", "a▁b", "▁the", "<0x0A>", "<0x41><0xFF>", "Ġthe", "Ċ", "##ing", "</w>", "3.14159",
    "1,000,000", "12345678901234567890", "2024-01-31T23:59:59Z", "0x1F 0b101 1e10", "007",
    "٠١٢٣٤٥٦٧٨٩", "१२३", "x1y22z333w4444v55555", "$1.00 €2,50 ¥3 #4 %5", "+1 (555) 010-9999",
)  # fmt: skip

_SPACES = (
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\t\n \r\n\t ", "\x0b\x0c",
)  # fmt: skip
_AROUND = ("Hello", "the", "1", "é", "你", "!", "▁")
_RUN_OF = (
    " ", "\n", "\t", "\r\n", "a", "A", "1", "é", "你", "😀", "=", "-", "_", ".", "!", "/", "'",
    "ab", " a", "\u0301", "\u200d", "\x00", "▁", " \n", "<s>", "\ufffd",
)  # fmt: skip
_CONTRACTIONS = tuple(
    a + mark + b
    for a in ("", "I", "we ", "X", "1", "\n")
    for mark in ("'", "’", "''", "' ")
    for b in ("s", "S", "t", "re", "RE", "ve", "m", "ll", "Ll", "d", "ſ", "x")
)
_SPECIALS = (
    "<s>", "</s>", "<unk>", "<pad>", "[PAD]", "[INST]", "[/INST]", "<<SYS>>", "<|begin_of_text|>",
    "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|python_tag|>", "<|reserved_special_token_0|>", "<|header_start|>", "<|image|>",
    "<|endoftext|>", "<|im_start|>", "▁<PRE>", " <PRE>", "<PRE> <SUF> <MID> <EOT>",
)  # fmt: skip


def adversarial() -> list[str]:
    """The built-in texts, the same every time."""
    texts = [*_SENTENCES, *_SPACES, *_CONTRACTIONS]
    for word in (*_AROUND, *_SPECIALS):
        texts += [word, f" {word}", f"  {word}", f"{word} ", f"a{word}b", f"{word}{word}"]
        texts += [space + word + space for space in _SPACES]
    texts += [unit * n for unit in _RUN_OF for n in _RUNS]
    texts += ["1" * n for n in range(1, 20)]
    texts += [f" {'9' * n} {'0' * n}" for n in range(1, 12)]
    texts += ["".join(c) for c in _byte_neighbours()]
    return texts


def _byte_neighbours() -> Iterator[str]:
    """Characters where UTF-8 changes its length, and one of each Unicode category."""
    for edge in (0x7F, 0x80, 0x7FF, 0x800, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF):
        yield f"a{chr(edge)}b {chr(edge)}"
    for members in _by_category().values():
        yield "".join(members[:: max(1, len(members) // 8)])
        yield " ".join(members[:: max(1, len(members) // 5)])


@cache
def _by_category() -> dict[str, list[str]]:
    """Some hundreds of characters of each Unicode category, spread over it."""
    found: dict[str, list[str]] = {}
    for code in (*range(0x3000), *range(0x3000, 0x110000, 61)):
        if not 0xD800 <= code < 0xE000:
            found.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return found


def tokens_as_texts(tokenizer: Tokenizer, every: int = 1) -> list[str]:
    """What tokens spell, each alone: finds tokens that merging does not reach."""
    plain = tokenizer.token_bytes
    spelled = (plain[i] for i in sorted(plain)[::every])
    return [t for b in spelled if "\ufffd" not in (t := b.decode(errors="replace"))]


def fuzz(tokenizer: Tokenizer, n: int, seed: int) -> list[str]:
    """`n` random texts: characters of every category, and pieces of the vocabulary."""
    rng = random.Random(seed)
    categories = list(_by_category().values())
    vocabulary = tokens_as_texts(tokenizer, every=max(1, tokenizer.base_size // 20_000)) or [""]
    builtin = adversarial()[: len(_SENTENCES) + len(_SPACES) + len(_CONTRACTIONS)]

    def part() -> str:
        kind = rng.random()
        if kind < 0.35:
            return rng.choice(vocabulary)
        if kind < 0.55:
            return chr(rng.randrange(32, 127))
        if kind < 0.70:
            return rng.choice(rng.choice(categories))
        if kind < 0.80:
            return rng.choice(_SPACES)
        if kind < 0.90:
            return rng.choice(_RUN_OF) * rng.randrange(1, 12)
        text = rng.choice(builtin)
        start = rng.randrange(len(text) + 1)
        return text[start : start + rng.randrange(1, 8)]

    return ["".join(part() for _ in range(rng.randrange(1, 24))) for _ in range(n)]


def read_corpus(path: str | Path) -> list[str]:
    """A user's file: each line alone, and blocks of lines together, newlines kept."""
    try:
        size = Path(path).stat().st_size
        if size > _MAX_CORPUS:
            raise BadInput(f"{safe(path)}: {nbytes(size)} of text; {nbytes(_MAX_CORPUS)} at most")
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as e:
        raise BadInput(f"{safe(path)}: not UTF-8 at byte {e.start}") from None
    except FileNotFoundError:
        raise BadInput(f"{safe(path)}: no such file") from None
    except OSError as e:
        raise IOFailed(f"{safe(path)}: cannot be read: {e.strerror or e}") from e
    lines = text.splitlines(keepends=True)
    blocks = ["".join(lines[i : i + 16]) for i in range(0, len(lines), 16)]
    return [piece for t in (*lines, *blocks) for piece in _cut(t)]


def _cut(text: str) -> Iterator[str]:
    for at in range(0, len(text), _LONGEST):
        yield text[at : at + _LONGEST]
