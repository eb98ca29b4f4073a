"""Model-parallel parts cover a tensor, and overlap only where key-value heads are repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import many

from llamatools.errors import UsageError
from llamatools.layouts.split import check_shards, part
from llamatools.spec import ModelSpec

SPEC = ModelSpec(
    dim=64,
    n_layers=1,
    n_heads=16,
    n_kv_heads=4,
    head_dim=4,
    ffn_dim=96,
    vocab_size=33,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    context=None,
    tied=False,
)


@given(
    axis=st.sampled_from(("rows", "columns")),
    rows=st.integers(1, 500),
    columns=st.integers(1, 500),
    shards=st.integers(1, 40),
)
@many
def test_parts_partition_the_axis(axis: str, rows: int, columns: int, shards: int) -> None:
    where = int(axis == "columns")
    parts = [part(axis, (rows, columns), r, shards, 1) for r in range(shards)]  # type: ignore[arg-type]
    assert {p[0] for p in parts} == {where}
    covered = [i for _, start, stop in parts for i in range(start, stop)]
    assert covered == list(range((rows, columns)[where]))
    widths = [stop - start for _, start, stop in parts]
    assert max(widths) - min(widths) <= 1


@given(kv=st.integers(1, 8), width=st.integers(1, 9), times=st.integers(1, 8), fewer=st.booleans())
@many
def test_heads_are_shared_out_or_repeated(kv: int, width: int, times: int, fewer: bool) -> None:
    heads, shards = (kv * times, kv) if fewer else (kv, kv * times)
    parts = [part("kv", (heads * width, 7), r, shards, heads) for r in range(shards)]
    assert all(axis == 0 for axis, _, _ in parts)
    held = [list(range(start // width, stop // width)) for _, start, stop in parts]
    if fewer:
        assert [h for run in held for h in run] == list(range(heads))
    else:
        assert held == [[h] for h in range(heads) for _ in range(times)]  # 0, 0, 1, 1, ...


def test_sixteen_files_of_eight_heads_hold_neighbours_in_pairs() -> None:
    held = [part("kv", (8 * 128, 16384), r, 16, 8)[1] // 128 for r in range(16)]
    assert held == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]


def test_an_uneven_vocabulary_gives_the_later_file_more() -> None:
    parts = [part("rows", (49953, 5120), r, 2, 40) for r in range(2)]
    assert [stop - start for _, start, stop in parts] == [24976, 24977]


def test_copies_are_whole() -> None:
    assert part("copy", (64,), 3, 4, 2) == (0, 0, 64)


@pytest.mark.parametrize("shards", [1, 2, 4, 8, 16])
def test_allowed_numbers_of_files(shards: int) -> None:
    assert check_shards(SPEC, shards) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("shards", "spec", "words"),
    [
        (3, SPEC, "does not divide the heads (16)"),
        (32, SPEC, "does not divide the heads (16)"),
        (4, replace(SPEC, ffn_dim=98), "does not divide the feed-forward width (98)"),
        (8, replace(SPEC, dim=60), "does not divide the model dimension (60)"),
        (4, replace(SPEC, n_heads=12, n_kv_heads=6), "key-value heads (6)"),
    ],
)
def test_refused_numbers_of_files(shards: int, spec: ModelSpec, words: str) -> None:
    with pytest.raises(UsageError, match="--shards") as caught:
        check_shards(spec, shards)
    assert words in str(caught.value)
    assert "can be split over 1" in (caught.value.hint or "")


def test_every_hinted_number_is_accepted() -> None:
    with pytest.raises(UsageError) as caught:
        check_shards(SPEC, 5)
    hint = caught.value.hint or ""
    numbers = [int(n) for n in hint.split("over ")[1].split(" files")[0].split(", ")]
    assert numbers == [1, 2, 4, 8, 16]
