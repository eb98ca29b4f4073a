"""Every layout's table names every tensor of a Llama, and no two alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import many

from llamatools.canonical import BY_TEMPLATE, TENSORS, expand
from llamatools.layouts.hf import HF
from llamatools.layouts.meta import META_2, META_3
from llamatools.layouts.table import PAIRS_KV, PAIRS_Q, SAME, Layout

LAYOUTS = pytest.mark.parametrize("layout", [HF, META_2, META_3], ids=["hf", "meta2", "meta3"])


@LAYOUTS
def test_every_canonical_template_has_one_row(layout: Layout) -> None:
    assert [r.canonical for r in layout.rows] == [t.template for t in TENSORS]


@LAYOUTS
def test_native_templates_are_unique_and_layered_alike(layout: Layout) -> None:
    assert len({r.native for r in layout.rows}) == len(layout.rows)
    for row in layout.rows:
        assert row.native.count("{i}") == row.canonical.count("{i}") <= 1


@LAYOUTS
@given(n_layers=st.integers(1, 130))
@many
def test_expansion_is_a_bijection(layout: Layout, n_layers: int) -> None:
    triples = list(layout.expand(n_layers))
    assert len({c for c, _, _ in triples}) == len({n for _, n, _ in triples}) == len(triples)
    per_layer = sum("{i}" in t.template for t in TENSORS)
    assert len(triples) == per_layer * n_layers + len(TENSORS) - per_layer
    assert not layout.buffer_names(n_layers) & {n for _, n, _ in triples}


@given(template=st.sampled_from(sorted(BY_TEMPLATE)), n=st.integers(1, 200))
@many
def test_expand_fills_in_each_layer_once(template: str, n: int) -> None:
    names = expand(template, n)
    layered = "{i}" in template
    assert len(names) == (n if layered else 1)
    back = {name.replace(f"layers.{i}.", "layers.{i}.") for i, name in enumerate(names)}
    assert back == {template}


def test_only_queries_and_keys_are_reordered() -> None:
    assert all(r.order is SAME for r in HF.rows)
    for layout in (META_2, META_3):
        ordered = {r.canonical: r.order for r in layout.rows if r.order is not SAME}
        at = "layers.{i}.attention."
        assert ordered == {
            at + "q.weight": PAIRS_Q,
            at + "q.bias": PAIRS_Q,
            at + "k.weight": PAIRS_KV,
            at + "k.bias": PAIRS_KV,
        }


def test_the_two_meta_tables_differ_in_the_embedding_alone() -> None:
    different = [(a, b) for a, b in zip(META_2.rows, META_3.rows, strict=True) if a != b]
    assert [a.canonical for a, _ in different] == ["embedding.weight"]
    assert (different[0][0].axis, different[0][1].axis) == ("columns", "rows")
