"""What a model is asked by default, and what a file may ask it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sharp import Sharp, write

from llamatools.checkpoint import open_checkpoint
from llamatools.errors import BadInput
from llamatools.golden.prompts import Prompts, default_prompts, drawn_ids, read_prompts

TOKENIZER = Path(__file__).parents[2] / "golden" / "tokenizer" / "tokenizer.model"


def _ask(model: Sharp, tmp_path: Path, *, words: bool = False) -> Prompts:
    folder = write(model, tmp_path / "m")
    if words:
        shutil.copy(TOKENIZER, folder)
    with open_checkpoint(folder) as checkpoint:
        return default_prompts(checkpoint)


def test_default_prompts(tmp_path: Path) -> None:
    found = _ask(Sharp(layers=1), tmp_path)
    assert [p.name for p in found.prompts] == [
        "edges-up", "edges-down", "seeded-8", "seeded-64", "seeded-512", "gapped-64",
    ]  # fmt: skip
    assert found.notes == ()
    by_name = {p.name: p for p in found.prompts}
    assert by_name["edges-up"].tokens == (0, 159) and by_name["edges-down"].tokens == (159, 0)
    assert by_name["gapped-64"].positions == (*range(32), *range(4096, 4128))
    assert by_name["seeded-512"].positions == tuple(range(512))
    assert len(set(by_name["seeded-512"].tokens)) > 140


def test_drawn_ids_are_the_same_everywhere() -> None:
    """BLAKE3's stream, so these numbers may never change: golden files hold them."""
    assert drawn_ids("seeded-8", 8, 128_256) == EXPECTED


EXPECTED = [16353, 46683, 63869, 66646, 53162, 639, 66905, 81665]


def test_texts_come_with_a_tokenizer(tmp_path: Path) -> None:
    found = _ask(Sharp(layers=1, vocab=512), tmp_path, words=True)
    texts = [p for p in found.prompts if p.name.startswith("text-")]
    assert len(texts) == 5 and all(p.tokens[0] == 1 and len(p.tokens) > 20 for p in texts)
    assert len({p.tokens for p in texts}) == 5


def test_texts_whose_tokens_have_no_rows_are_left_out(tmp_path: Path) -> None:
    found = _ask(Sharp(layers=1, vocab=40), tmp_path, words=True)
    assert not any(p.name.startswith("text-") for p in found.prompts)
    assert "texts left out" in found.notes[0]


def test_a_broken_tokenizer_is_no_reason_to_fail(tmp_path: Path) -> None:
    folder = write(Sharp(layers=1), tmp_path / "m")
    (folder / "tokenizer.model").write_bytes(b"nothing")
    with open_checkpoint(folder) as checkpoint:
        found = default_prompts(checkpoint)
    assert "the tokenizer is not used" in found.notes[0] and len(found.prompts) == 6


@pytest.mark.parametrize(
    ("context", "longest", "last", "notes"),
    [(4128, 512, 4127, 0), (4096, 512, 4095, 1), (256, 256, 255, 2), (64, 64, 63, 2), (1, 1, 0, 2)],
)
def test_contexts_that_are_short(
    context: int, longest: int, last: int, notes: int, tmp_path: Path
) -> None:
    found = _ask(Sharp(layers=1, scaling=None, context=context), tmp_path)
    assert max(len(p.tokens) for p in found.prompts) == longest
    assert max(p.positions[-1] for p in found.prompts) == last
    assert len(found.notes) == notes
    assert len({p.name for p in found.prompts}) == len(found.prompts)


def _read(text: str, tmp_path: Path) -> Prompts:
    folder = write(Sharp(layers=1), tmp_path / "m")
    (tmp_path / "p.jsonl").write_text(text)
    with open_checkpoint(folder) as checkpoint:
        return read_prompts(tmp_path / "p.jsonl", checkpoint)


def test_prompts_from_a_file(tmp_path: Path) -> None:
    found = _read('{"ids": [5, 6]}\n\n{"ids": [7], "positions": [99], "name": "x"}\n', tmp_path)
    assert [(p.name, p.tokens, p.positions) for p in found.prompts] == [
        ("line-1", (5, 6), (0, 1)),
        ("x", (7,), (99,)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "", "{", "[]", "{}", '{"ids": []}', '{"ids": [160]}', '{"ids": [-1]}', '{"ids": [1.5]}',
        '{"ids": [true]}', '{"ids": "a"}', '{"ids": [1], "positions": [1, 2]}',
        '{"ids": [1, 2], "positions": [1, 1]}', '{"ids": [1], "positions": [99999999]}',
        '{"positions": [1]}', '{"text": "no tokenizer"}', '{"text": 1}',
        '{"ids": [1], "text": "a"}', '{"ids": [1], "surprise": 1}', '{"ids": [1], "name": ""}',
        '{"ids": [1], "name": 1}', '{"ids": [1], "name": "a"}\n{"ids": [2], "name": "a"}',
        '{"ids": [1], "ids": [2]}',
    ],
)  # fmt: skip
def test_lines_that_are_no_prompts(line: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        _read(line, tmp_path)


def test_every_bad_line_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        _read('{"ids": [160]}\n{"ids": [1]}\n{}\n', tmp_path)
    assert [("line 1" in p, "line 3" in p) for p in caught.value.problems] == [
        (True, False), (False, True),
    ]  # fmt: skip
