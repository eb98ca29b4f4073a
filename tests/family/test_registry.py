"""The table of official models agrees with itself, and with published sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import many

from llamatools.canonical import tensors
from llamatools.errors import NotRepresentable
from llamatools.family.identify import identify, implied_factor, infer_generation
from llamatools.family.registry import GENERATIONS, OFFICIAL, Official
from llamatools.layouts.meta_config import check_representable, ffn_pair, ffn_width
from llamatools.layouts.split import check_shards
from llamatools.spec import ModelSpec, RopeScaling, llama3_scaling

ROWS = pytest.mark.parametrize("official", OFFICIAL, ids=lambda o: o.key)


def spec_of(o: Official, **changes: object) -> ModelSpec:
    spec = ModelSpec(
        dim=o.dim,
        n_layers=o.n_layers,
        n_heads=o.n_heads,
        n_kv_heads=o.n_kv_heads,
        head_dim=o.dim // o.n_heads,
        ffn_dim=o.ffn_dim,
        vocab_size=o.vocab_size,
        norm_eps=o.norm_eps,
        rope_theta=o.rope_theta,
        rope_scaling=o.rope_scaling,
        context=o.context,
        tied=o.tied,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_keys_and_titles_are_unique() -> None:
    assert len({o.key for o in OFFICIAL}) == len({o.title for o in OFFICIAL}) == len(OFFICIAL)
    assert {o.generation.key for o in OFFICIAL} == set(GENERATIONS)


@ROWS
def test_the_width_is_what_metas_formula_gives(official: Official) -> None:
    o = official
    assert ffn_width(o.dim, o.multiple_of, o.ffn_dim_multiplier) == o.ffn_dim


@ROWS
def test_the_row_is_a_model(official: Official) -> None:
    spec = spec_of(official)
    assert spec.head_dim * spec.n_heads == spec.dim
    assert spec.n_heads % spec.n_kv_heads == 0
    check_shards(spec, official.shards)
    check_representable(spec)
    assert official.generation.scaled == (official.rope_factor is not None)
    assert max(official.generation.instruct_eos) < official.vocab_size


PUBLISHED = {
    "llama-1-7b": 6_738_415_616,
    "llama-1-13b": 13_015_864_320,
    "llama-1-33b": 32_528_943_616,
    "llama-1-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "code-llama-7b": 6_738_546_688,
    "code-llama-13b": 13_016_028_160,
    "code-llama-34b": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}


@pytest.mark.parametrize(("key", "total"), PUBLISHED.items(), ids=PUBLISHED)
def test_parameters_are_those_published(key: str, total: int) -> None:
    official = next(o for o in OFFICIAL if o.key == key)
    shapes = tensors(spec_of(official)).values()
    assert sum(s[0] * (s[1] if len(s) > 1 else 1) for s in shapes) == total


@ROWS
def test_each_is_identified_exactly(official: Official) -> None:
    found = identify(spec_of(official), context_is_known=True)
    assert found.official is not None
    assert found.official.key == official.key
    assert found.title == official.title
    assert found.exact
    assert found.differences == ()


PERTURBED = {
    "vocab_size": {"vocab_size": 31},
    "norm_eps": {"norm_eps": 3e-7},
    "rope_theta": {"rope_theta": 12345.0},
    "rope_scaling": {"rope_scaling": llama3_scaling(3.0)},
    "context": {"context": 77},
}


@ROWS
@pytest.mark.parametrize("what", [*PERTURBED, "tied"])
def test_one_strange_number_is_reported(official: Official, what: str) -> None:
    change = PERTURBED.get(what, {"tied": not official.tied})
    found = identify(spec_of(official, **change), context_is_known=True)
    assert found.official is not None
    assert found.official.same_architecture(spec_of(official))
    assert not found.exact
    assert found.title == f"descendant of {found.official.title}"
    assert what in {e.what for e in found.differences}


@ROWS
@pytest.mark.parametrize(
    "change",
    [
        {"dim": 4104},
        {"n_layers": 31},
        {"n_heads": 2},
        {"n_kv_heads": 2},
        {"ffn_dim": 11009},
    ],
    ids=lambda c: next(iter(c)),
)
def test_other_sizes_are_nobodys(official: Official, change: dict[str, int]) -> None:
    found = identify(spec_of(official, **change), context_is_known=True)
    assert found.official is None
    assert not found.exact
    assert found.title.startswith("unlisted model in the style of")


@ROWS
def test_scaling_of_another_kind_is_not_exact(official: Official) -> None:
    scaling = RopeScaling("linear", official.rope_factor or 2.0)
    assert not identify(spec_of(official, rope_scaling=scaling), context_is_known=True).exact


def test_wider_heads_are_not_exact() -> None:
    official = next(o for o in OFFICIAL if o.key == "llama-3.1-8b")
    assert not identify(spec_of(official, head_dim=256), context_is_known=True).exact


def test_a_context_nobody_stated_is_no_evidence() -> None:
    official = next(o for o in OFFICIAL if o.key == "llama-2-7b")
    found = identify(spec_of(official, context=None), context_is_known=False)
    assert found.exact
    assert found.official is official


@ROWS
def test_generation_of_a_model_of_other_sizes(official: Official) -> None:
    """From constants alone; Code Llama 70B Instruct has those of Llama 2."""
    spec = spec_of(official, n_layers=7)
    wanted = official.generation.key
    if official.key in ("code-llama-70b-instruct", "llama-1-65b"):
        wanted = "llama-2"
    assert infer_generation(spec).key == wanted


@ROWS
def test_the_implied_factor_is_the_true_one(official: Official) -> None:
    if official.rope_factor:
        for same_head in (True, False):
            assert implied_factor(spec_of(official), same_head) == official.rope_factor


def test_the_implied_factor_of_other_sizes() -> None:
    spec = spec_of(OFFICIAL[-1], n_layers=7)
    assert implied_factor(spec, same_head=True) == 32.0
    assert implied_factor(spec, same_head=False) == 8.0


@given(dim=st.integers(1, 20000), ffn=st.integers(1, 60000))
@many
def test_a_pair_is_found_for_any_width(dim: int, ffn: int) -> None:
    multiple_of, multiplier = ffn_pair(dim, ffn)
    assert ffn_width(dim, multiple_of, multiplier) == ffn


@ROWS
def test_a_pair_is_found_for_official_widths(official: Official) -> None:
    pair = ffn_pair(official.dim, official.ffn_dim)
    assert ffn_width(official.dim, *pair) == official.ffn_dim


@pytest.mark.parametrize(("dim", "ffn"), [(1, 1), (1, 2), (2, 1), (1 << 40, 1), (3, (1 << 40) - 1)])
def test_pairs_at_the_edges(dim: int, ffn: int) -> None:
    try:
        pair = ffn_pair(dim, ffn)
    except NotRepresentable as e:
        assert str(ffn) in str(e)
    else:
        assert ffn_width(dim, *pair) == ffn
