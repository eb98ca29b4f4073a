"""However many patterns an adapter's config has, and whatever they are: bounded time and memory."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.calls import call
from support.lora import plain
from support.tiny import Tiny, finite
from support.tiny_files import write_hf

from llamatools.adapters import patterns
from llamatools.adapters.patterns import compiled, every, first_match
from llamatools.errors import BadInput, LlamatoolsError, Unsupported

MODULES = [f"model.layers.{i}.{m}" for i in range(126) for m in ("self_attn.q_proj", "mlp.up_proj")]
NAMES = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(250) for x in "qkvo"]
MODEL = finite(Tiny())

LARGE = r"""
import resource
from llamatools.adapters.patterns import first_match
from llamatools.errors import LlamatoolsError
first_match(["q"], "q", "x"), first_match(["a|b"], "q", "x")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for count in (400, 30):
    try:
        first_match([r"(?:\pL{1,%d}|%d)" % (most, i) for i in range(count)], "model.q_proj", "x")
    except LlamatoolsError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_thousand_names() -> None:
    """Of which none is the module's, so that each may be a pattern that matches it."""
    began = time.monotonic()
    for module in MODULES:
        found = first_match(NAMES, module, "x")
        assert found == (module if module.endswith("q_proj") else None)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "pattern", [r"layers\.[0-9]+\..*_proj", "(q|k)_proj", "q.proj", "[^.]*_proj"]
)
def test_one_of_a_thousand_matches(pattern: str) -> None:
    """What PEFT's expression finds, however little memory each has."""
    several = [*NAMES[1:-1], pattern]
    for module in MODULES[2:40]:
        expected = next(p for p in [*several, ""] if not p or re.match(rf"(.*\.)?({p})$", module))
        assert first_match(several, module, "x") == (expected or None)


@pytest.mark.parametrize("many", [["a"] * 2_001, ["a" * 101] * 2_000], ids=["count", "length"])
def test_too_many_are_refused(many: list[str]) -> None:
    with pytest.raises(BadInput, match=r"x: 2,00. patterns of [0-9,]+ characters, more than the"):
        every(many, "x")
    assert every(many[:1_000], "x")("a")("a")


@pytest.mark.parametrize("most", [3, 10, 120])
def test_large_patterns_take_little_memory(most: int) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"most = {most}\n{LARGE}"], capture_output=True, check=True
    )
    assert int(done.stdout) < 60 << 10
    assert time.monotonic() - began < 10


def test_one_that_is_large_may_be_alone() -> None:
    """Negative control: it is what there are together that counts."""
    pattern = r"(?:\pL{1,4}|1)"
    assert compiled(pattern, "x")("abc")
    with pytest.raises(Unsupported, match="pattern too large"):
        every([str(i) for i in range(1_000)], "x")(pattern)


def test_what_is_kept_is_bounded() -> None:
    for i in range(6_000):
        compiled(f"a{i}", "x")
    assert patterns._cached.cache_info().currsize <= 4_000


LARGES = [rf"(?:\pL{{1,120}}|{i})" for i in range(400)]
MANY = [f"{i}{p}" for i in range(6) for p in LARGES]


@pytest.mark.parametrize(
    ("setting", "several", "code", "words"),
    [
        ("rank_pattern", LARGES, 3, "not a pattern that can be matched in bounded time"),
        ("rank_pattern", MANY, 3, "rank_pattern: 2,400 patterns of"),
        ("alpha_pattern", LARGES, 3, "not a pattern that can be matched in bounded time"),
        ("alpha_pattern", MANY, 3, "alpha_pattern: 2,400 patterns of"),
        ("layers_pattern", LARGES, 0, "LoRA, 4 modules"),
        ("layers_pattern", MANY, 3, "layers_pattern: 2,400 patterns of"),
    ],
)
def test_commands_end_soon(
    setting: str, several: list[str], code: int, words: str, tmp_path: Path
) -> None:
    value = several if setting == "layers_pattern" else dict.fromkeys(several, 8)
    adapter = plain(MODEL, tmp_path / "adapter", **{setting: value, "layers_to_transform": [0]})
    base = write_hf(MODEL, tmp_path / "base")
    began = time.monotonic()
    done = call("merge-lora", base, adapter, tmp_path / "out")
    assert time.monotonic() - began < 10
    assert done.code == code, done.err
    assert words in " ".join((done.out + done.err).split())
    assert (tmp_path / "out").exists() == (code == 0)


def test_a_pattern_that_is_none_is_told_of_where_it_is() -> None:
    for where in ("one", "another"):
        with pytest.raises(LlamatoolsError, match=f"^{where}: "):
            compiled("(a", where)
