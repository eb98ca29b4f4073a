"""Extended vocabularies that do not divide by the number of files.

An extended 13B of Llama 1 or 2 holds output rows [v // 2, v - v // 2]; its embedding is split by
columns, so both files hold all rows of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import Tensors, Tiny, meta_rank
from support.tiny_files import (
    meta_params,
    read_hf,
    read_meta,
    unequal,
    unequal_ranks,
    write_hf,
    write_meta,
    write_ranks,
)

import llamatools
from llamatools.errors import BadInput


@pytest.mark.parametrize("vocab", [13, 41, 43])
@pytest.mark.parametrize("heads", [(8, 2), (4, 4)])
def test_uneven_output_rows_of_two_files(
    vocab: int, heads: tuple[int, int], tmp_path: Path
) -> None:
    model = Tiny("llama-2", *heads, vocab=vocab, dtype=torch.float16)
    source = write_meta(model, tmp_path / "meta", 2)
    ranks = read_meta(source)
    assert [len(r["output.weight"]) for r in ranks] == [vocab // 2, vocab - vocab // 2]
    assert [len(r["tok_embeddings.weight"]) for r in ranks] == [vocab, vocab]
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "hf"), model.truth) == []
    for files in (1, 2, 4):
        out = tmp_path / f"meta{files}"
        llamatools.convert(tmp_path / "hf", out, llamatools.Options(to="meta", shards=files))
        expected = [meta_rank(model, rank, files) for rank in range(files)]
        assert unequal_ranks(read_meta(out), expected) == []
    assert unequal_ranks(read_meta(tmp_path / "meta2"), ranks) == []


@pytest.mark.parametrize("style", ["llama-2", "llama-3"])
@pytest.mark.parametrize("cuts", [(0, 20, 41), (0, 21, 41), (0, 1, 41), (0, 40, 41)])
def test_any_uneven_cut_is_read(style: str, cuts: tuple[int, ...], tmp_path: Path) -> None:
    """Nothing says who gets the odd row, so the files' own shapes decide."""
    model = Tiny(style, vocab=41)
    ranks: list[Tensors] = [meta_rank(model, rank, 2) for rank in range(2)]
    for rank, tensors in enumerate(ranks):
        start, stop = cuts[rank : rank + 2]
        cut = {"output.weight": "lm_head.weight"}
        if model.constants.split == "rows":
            cut["tok_embeddings.weight"] = "model.embed_tokens.weight"
        for native, name in cut.items():
            tensors[native] = model.truth[name][start:stop].clone()
    source = write_ranks(tmp_path / "meta", ranks, meta_params(model, 2))
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "hf"), model.truth) == []


@pytest.mark.parametrize("style", ["llama-2", "llama-3"])
@pytest.mark.parametrize("files", [2, 4, 8])
def test_odd_vocabulary_from_hf_and_back(style: str, files: int, tmp_path: Path) -> None:
    model = Tiny(style, vocab=43)
    source = write_hf(model, tmp_path / "hf")
    llamatools.convert(source, tmp_path / "meta", llamatools.Options(to="meta", shards=files))
    expected = [meta_rank(model, rank, files) for rank in range(files)]
    assert unequal_ranks(read_meta(tmp_path / "meta"), expected) == []
    llamatools.convert(tmp_path / "meta", tmp_path / "back", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "back"), model.truth) == []


def test_embedding_and_output_of_different_length_are_refused(tmp_path: Path) -> None:
    model = Tiny("llama-2", vocab=41)
    ranks = [meta_rank(model, rank, 2) for rank in range(2)]
    ranks[1]["output.weight"] = ranks[1]["output.weight"][:-1].clone()
    source = write_ranks(tmp_path / "meta", ranks, meta_params(model, 2))
    with pytest.raises(BadInput, match="head"):
        llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert not (tmp_path / "hf").exists()
