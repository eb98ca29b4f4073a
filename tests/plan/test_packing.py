"""Tensors are packed into files in order, none too large but for single tensors that are."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from support.drawn import many

from llamatools.dtypes import BF16
from llamatools.plan.pack import MODEL_SAFETENSORS, Entry, index_json, pack

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(sizes=SIZES, limit=st.integers(1, 3000))
@many
def test_runs_partition_the_tensors_and_keep_the_limit(sizes: list[int], limit: int) -> None:
    runs = pack(sizes, limit)
    assert [i for run in runs for i in run] == list(range(len(sizes)))
    assert all(len(run) == 1 or sum(sizes[i] for i in run) <= limit for run in runs)


@given(sizes=SIZES, limit=st.integers(1, 3000))
@many
def test_no_two_neighbouring_runs_would_fit_into_one(sizes: list[int], limit: int) -> None:
    runs = pack(sizes, limit)
    for a, b in pairwise(runs):
        assert sum(sizes[i] for i in a) + sizes[b.start] > limit


def test_names_say_how_many_files_there_are() -> None:
    assert MODEL_SAFETENSORS.name(0, 1) == "model.safetensors"
    assert MODEL_SAFETENSORS.name(1, 3) == "model-00002-of-00003.safetensors"


def test_the_index_places_every_tensor() -> None:
    entries: list[list[Entry]] = [[("a", BF16, (2,))], [("b", BF16, (3,)), ("c", BF16, (1,))]]
    index = json.loads(index_json(MODEL_SAFETENSORS, entries, 12))
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert index == {
        "metadata": {"total_size": 12},
        "weight_map": {"a": first, "b": second, "c": second},
    }
