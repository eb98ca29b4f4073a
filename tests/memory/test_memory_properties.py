"""What holds of any model: more costs more, and what is shared is shared."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llamatools.cli.options import SIZE
from llamatools.memory.architecture import Architecture, Layer, dense
from llamatools.memory.engines import ENGINES
from llamatools.memory.fit import (
    MOST_BATCH,
    MOST_CONTEXT,
    Search,
    largest_batch,
    largest_context,
    verdict,
)
from llamatools.memory.formats import FORMATS, Format
from llamatools.memory.gpus import Gpu, known
from llamatools.memory.kv import whole_cache
from llamatools.memory.need import Deployment
from llamatools.memory.parallel import allowed_tp, kv_heads, rank_shape, shares
from llamatools.memory.parameters import cast, weights
from llamatools.memory.units import MAX_TOKENS, about_tokens, gib, parse_tokens, tokens
from llamatools.spec import ModelSpec

some = settings(max_examples=60)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    kv = draw(st.sampled_from((1, 2, 4, 8)))
    heads = kv * draw(st.sampled_from((1, 2, 4)))
    width = 2 * draw(st.integers(1, 64))
    return ModelSpec(
        heads * width, draw(st.integers(1, 12)), heads, kv, width, 8 * draw(st.integers(1, 500)),
        draw(st.integers(64, 200_000)), 1e-5, 1e4, None, 4096, draw(st.booleans()),
        draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    spec = draw(specs())
    kinds = st.sampled_from((Layer(), Layer(window=64), Layer(window=8192)))
    layers = draw(st.lists(kinds, min_size=spec.n_layers, max_size=spec.n_layers))
    return Architecture(spec, tuple(layers))


engines = st.sampled_from(list(ENGINES.values()))
formats = st.sampled_from(list(FORMATS.values()))
contexts = st.integers(1, 1 << 20)
batches = st.integers(1, 512)


def _deployment(a: Architecture, fmt: Format, tp: int = 1, pp: int = 1) -> Deployment:
    return Deployment(a, shares(weights(a), a, tp, tp - 1, ENGINES["none"]), fmt, tp, pp)


@some
@given(architectures(), formats, engines, contexts, contexts, batches, batches)
def test_more_tokens_and_sequences_take_no_less(
    a: Architecture, fmt: Format, engine: object, c1: int, c2: int, b1: int, b2: int
) -> None:
    assert isinstance(engine, type(ENGINES["none"]))
    cache = whole_cache(a, fmt, engine)
    low, high = sorted((c1, c2))
    few, many = sorted((b1, b2))
    assert cache.nbytes(low, few) <= cache.nbytes(high, few) <= cache.nbytes(high, many)
    assert cache.nbytes(high, many) == many * cache.nbytes(high)
    d = replace(_deployment(a, fmt), engine=engine)
    assert d.need(low, few).total <= d.need(high, few).total <= d.need(high, many).total


@some
@given(architectures(), formats, formats, contexts)
def test_larger_elements_take_no_less(a: Architecture, f: Format, g: Format, n: int) -> None:
    small, large = sorted((f, g), key=lambda x: x.per_element)
    if small.elements <= large.elements or a.spec.kv_dim % 32 == 0:
        assert whole_cache(a, small).nbytes(n) <= whole_cache(a, large).nbytes(n)


@some
@given(specs(), st.integers(1, 10_000), formats)
def test_rows_are_what_fractions_say(spec: ModelSpec, n: int, fmt: Format) -> None:
    whole = n * fmt.elements
    assert fmt.row(whole) == whole * fmt.per_element
    assert fmt.row(whole - 1) <= fmt.row(whole) < fmt.row(whole + 1)


@some
@given(specs(), contexts, batches)
def test_tensor_parallelism_saves_cache_up_to_the_heads_only(
    spec: ModelSpec, context: int, batch: int
) -> None:
    a = dense(spec)
    for tp in allowed_tp(a, 32):
        d = _deployment(a, FORMATS["bf16"], tp)
        each = d.need(context, batch).kv
        whole = whole_cache(a, FORMATS["bf16"]).nbytes(context, batch)
        assert each == whole // min(tp, spec.n_kv_heads)
        assert d.kv_total(context, batch) == whole * max(1, tp // spec.n_kv_heads)
        assert kv_heads(a, tp) * tp == max(spec.n_kv_heads, tp)


@some
@given(specs())
def test_ranks_hold_everything_once_but_for_copies(spec: ModelSpec) -> None:
    a = dense(spec)
    none = ENGINES["none"]
    for tp in allowed_tp(a, 8):
        for w in weights(a):
            held = sum(w.bytes_of(rank_shape(w, a, tp, rank, none)) for rank in range(tp))
            copies = {"copy": tp, "kv": max(1, tp // spec.n_kv_heads)}.get(w.axis, 1)
            assert held == copies * w.nbytes


@some
@given(specs(), formats)
def test_a_format_reaches_what_it_says(spec: ModelSpec, fmt: Format) -> None:
    every = weights(dense(spec))
    names = {w.name for w in cast(every, fmt) if w.format == fmt}
    vectors = {w.name for w in every if len(w.shape) == 1}
    if fmt.reach == "all":
        assert len(names) == len(every)
    else:
        assert not names & vectors
        assert ("embedding.weight" in names) == (fmt.reach == "matrices")
        assert "layers.0.attention.q.weight" in names


@some
@given(specs(), st.sampled_from(list(known().values())), batches, contexts)
def test_the_most_that_fits_is_the_most(spec: ModelSpec, gpu: Gpu, batch: int, n: int) -> None:
    d = _deployment(dense(spec), FORMATS["bf16"])
    most = largest_context(d, gpu, batch)
    assert most == 0 or verdict(d.need(most, batch), gpu) == "fits"
    assert most == MOST_CONTEXT or verdict(d.need(most + 1, batch), gpu) != "fits"
    most = largest_batch(d, gpu, n)
    assert most == 0 or verdict(d.need(n, most), gpu) == "fits"
    assert most == MOST_BATCH or verdict(d.need(n, most + 1), gpu) != "fits"


@settings(max_examples=20)
@given(specs(), st.integers(20, 34))
def test_the_fewest_gpus_are_the_fewest(spec: ModelSpec, power: int) -> None:
    a = dense(spec)
    gpu = Gpu("some", "some", 1 << power)
    base = _deployment(a, FORMATS["bf16"])
    search = Search(base, lambda tp: shares(weights(a), a, tp, tp - 1, ENGINES["none"]))
    found = search.fewest(gpu, 4096, 1)
    fitting = [
        tp * pp
        for tp in allowed_tp(a, 16)
        for pp in range(1, spec.n_layers + 1)
        if verdict(_deployment(a, FORMATS["bf16"], tp, pp).need(4096, 1), gpu) == "fits"
    ]
    assert (found.gpus if found else None) == min(fitting, default=None)


@given(st.integers(1, MAX_TOKENS))
def test_tokens_there_and_back(n: int) -> None:
    assert parse_tokens(tokens(n)) == n
    assert parse_tokens(str(n)) == n
    assert len(about_tokens(n)) <= 5


@given(st.integers(1, 1 << 12), st.sampled_from(("KiB", "MiB", "GiB", "TiB")))
def test_sizes_there_and_back(n: int, unit: str) -> None:
    power = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
    assert SIZE.convert(f"{n}{unit}", None, None) == n << power
    if n < 1000:
        assert gib(n << power) == f"{n} {unit}"


def test_words_for_tokens() -> None:
    cases = {"8k": 8192, "128K": 131072, "1m": 1 << 20, "131072": 131072, " 4k ": 4096}
    assert {text: parse_tokens(text) for text in cases} == cases
    for wrong in ("", "0", "0k", "8.5k", "-1", "8kb", "k", "1e3", "99999999999m", "٣"):
        assert parse_tokens(wrong) is None, wrong
