"""Additive deltas of others, held against the sums that their publishers' scripts make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from delta_kit import BASE, EMBEDDING, HEAD, VOCABULARY, grown, holding, with_numbers, write
from support.calls import call, edit_json, leftovers, tree
from support.tiny import Tensors, Tiny, as_bits
from support.tiny_files import read_hf, read_meta, unequal, unequal_ranks
from support.vocabularies import sentencepiece_model

TYPES = [torch.float16, torch.bfloat16, torch.float32]


def typed(dtype: torch.dtype, **changes: object) -> Tiny:
    return Tiny(**{"style": "llama-1", "kv_heads": 8, "vocab": 40, "dtype": dtype, **changes})  # type: ignore[arg-type]


def added(base: Tiny, delta: Tiny) -> Tensors:
    """What `param.data += delta` makes of a base."""
    return {n: t + delta.truth[n].to(t.dtype) for n, t in base.truth.items()}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("base_layout", ["hf", "meta1", "meta2"])
@pytest.mark.parametrize("delta_layout", ["hf", "meta2"])
def test_sums(dtype: torch.dtype, base_layout: str, delta_layout: str, tmp_path: Path) -> None:
    base, delta = (with_numbers(typed(dtype), seed) for seed in (1, 2))
    b = write(base, tmp_path / "base", base_layout)
    d = write(delta, tmp_path / "delta", delta_layout)
    done = call("apply-delta", b, d, tmp_path / "out", "--to", "hf", "--json")
    assert done.code == 0, done.err
    assert unequal(read_hf(tmp_path / "out"), added(base, delta)) == []
    (entry,) = done.json["merge"]["adapters"]
    assert (entry["format"], entry["kind"]) == ("delta", "additive delta")
    assert entry["blake3"] == call("fingerprint", d).out.split()[0]
    assert done.json["merge"]["base_fingerprint"] == call("fingerprint", b).out.split()[0]
    assert done.json["source"]["layout"] == base_layout[: len("meta")].rstrip("12")
    assert not done.json["lossless"]


def test_the_layout_is_the_bases_own(tmp_path: Path) -> None:
    base, delta = (with_numbers(BASE, seed) for seed in (1, 2))
    b, d = write(base, tmp_path / "base", "meta2"), write(delta, tmp_path / "delta")
    assert call("apply-delta", b, d, tmp_path / "out", "--shards", 2).code == 0
    wanted = write(holding(BASE, added(base, delta)), tmp_path / "wanted", "meta2")
    assert unequal_ranks(read_meta(tmp_path / "out"), read_meta(wanted)) == []


def test_heads_and_tiles_of_any_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta in Meta's row order is read by whole heads, and added in tiles that cut them."""
    monkeypatch.setattr("llamatools.plan.passes.edits._TILE", 4 * BASE.dim)
    base, delta = (with_numbers(BASE, seed) for seed in (1, 2))
    b, d = write(base, tmp_path / "base"), write(delta, tmp_path / "delta", "meta2")
    assert call("apply-delta", b, d, tmp_path / "out").code == 0
    assert unequal(read_hf(tmp_path / "out"), added(base, delta)) == []


def test_one_rounding_of_a_wide_sum(tmp_path: Path) -> None:
    """An fp32 delta over an fp16 base: the sum is taken in fp32."""
    base = with_numbers(typed(torch.float16), 1)
    delta = with_numbers(typed(torch.float32), 2)
    b, d = write(base, tmp_path / "base"), write(delta, tmp_path / "delta")
    sums = {n: t.float() + delta.truth[n] for n, t in base.truth.items()}
    assert call("apply-delta", b, d, tmp_path / "keep").code == 0
    assert unequal(read_hf(tmp_path / "keep"), {n: t.half() for n, t in sums.items()}) == []
    assert call("apply-delta", b, d, tmp_path / "wide", "--dtype", "fp32").code == 0
    assert unequal(read_hf(tmp_path / "wide"), sums) == []
    config = json.loads((tmp_path / "wide/config.json").read_text())
    assert config["torch_dtype"] == "float32"


@pytest.mark.parametrize("kind", ["pad-zeros", "vicuna-v0"])
@pytest.mark.parametrize("base_layout", ["hf", "meta2"])
def test_new_rows_over_zeros(kind: str, base_layout: str, tmp_path: Path) -> None:
    base = with_numbers(typed(torch.float16), 1)
    delta = with_numbers(typed(torch.float16, vocab=43), 2)
    b, d = write(base, tmp_path / "base", base_layout), write(delta, tmp_path / "delta")
    words = ("--kind", kind, "--to", "hf", "--json")
    done = call("apply-delta", b, d, tmp_path / "out", *words)
    assert done.code == 0, done.err
    start = {n: t.half() for n, t in grown(base, base.truth, 43, "zeros").items()}
    assert unequal(read_hf(tmp_path / "out"), added(holding(BASE, start), delta)) == []
    assert done.json["merge"]["adapters"][0]["kind"] == "additive delta, new rows over zeros"
    assert done.json["merge"]["base_fingerprint"] == call("fingerprint", b).out.split()[0]
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 43


@pytest.mark.parametrize("base_type", TYPES, ids=str)
@pytest.mark.parametrize("base_layout", ["hf", "meta2"])
def test_new_rows_over_the_mean(base_type: torch.dtype, base_layout: str, tmp_path: Path) -> None:
    base = with_numbers(typed(base_type), 1)
    delta = with_numbers(typed(torch.float32, vocab=43), 2)
    b, d = write(base, tmp_path / "base", base_layout), write(delta, tmp_path / "delta")
    words = ("--kind", "pad-mean", "--to", "hf", "--dtype", "fp32")
    done = call("apply-delta", b, d, tmp_path / "out", *words)
    assert done.code == 0, done.err
    found, start = read_hf(tmp_path / "out"), grown(base, base.truth, 43, "mean")
    for name, t in start.items():
        wanted = t.float() + delta.truth[name]
        if name in VOCABULARY:  # torch's mean in fp32 is not ours in fp64 to the last bit
            assert torch.allclose(found[name][40:], wanted[40:], rtol=1e-6, atol=1e-8)
            found[name], wanted = found[name][:40], wanted[:40]
        assert torch.equal(as_bits(found[name]), as_bits(wanted)), name
    assert not torch.equal(found[EMBEDDING][0], found[HEAD][0])


def test_own_means_for_embedding_and_head(tmp_path: Path) -> None:
    base = with_numbers(typed(torch.float32), 1)
    zero = {n: torch.zeros_like(t) for n, t in typed(torch.float32, vocab=41).truth.items()}
    delta = holding(typed(torch.float32, vocab=41), zero)
    b, d = write(base, tmp_path / "base"), write(delta, tmp_path / "delta")
    assert call("apply-delta", b, d, tmp_path / "out", "--kind", "pad-mean").code == 0
    found = read_hf(tmp_path / "out")
    for name in VOCABULARY:
        wanted = base.truth[name].double().mean(0).float()
        assert torch.equal(found[name][40], wanted)


@pytest.mark.parametrize("rows", [40, 45])
@pytest.mark.parametrize("kind", ["whole-vocabulary", "ziya"])
def test_a_whole_vocabulary(kind: str, rows: int, tmp_path: Path) -> None:
    """Embedding and head are the delta's, to the last bit; and the base is known all the same."""
    base = with_numbers(typed(torch.float16), 1)
    delta = with_numbers(typed(torch.float16, vocab=rows), 2)
    b, d = write(base, tmp_path / "base", "meta2"), write(delta, tmp_path / "delta")
    done = call("apply-delta", b, d, tmp_path / "out", "--kind", kind, "--to", "hf", "--json")
    assert done.code == 0, done.err
    wanted = {n: delta.truth[n] if n in VOCABULARY else t + delta.truth[n]
              for n, t in base.truth.items()}  # fmt: skip
    assert unequal(read_hf(tmp_path / "out"), wanted) == []
    assert done.json["merge"]["base_fingerprint"] == call("fingerprint", b).out.split()[0]
    assert "embedding and head whole" in done.json["merge"]["adapters"][0]["kind"]


@pytest.mark.parametrize("words", [(), ("--kind", "add")], ids=["none", "add"])
def test_new_rows_need_a_kind(words: tuple[str, ...], tmp_path: Path) -> None:
    b = write(with_numbers(BASE, 1), tmp_path / "base")
    d = write(with_numbers(Tiny(style="llama-1", kv_heads=8, vocab=41), 2), tmp_path / "delta")
    done = call("apply-delta", b, d, tmp_path / "out", *words)
    assert done.code == 2
    for text in ("41 rows", "the base 40", "--kind pad-zeros", "--kind pad-mean", "(ziya)"):
        assert text in " ".join(done.err.split())
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["pad-zeros", "pad-mean", "vicuna-v0", "alpaca"])
def test_no_padding_without_new_rows(kind: str, tmp_path: Path) -> None:
    b, d = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "d"),
    )
    done = call("apply-delta", b, d, tmp_path / "out", "--kind", kind)
    assert done.code == 2
    assert "as many rows as the base" in done.err


def test_xor_of_an_additive_delta_is_refused(tmp_path: Path) -> None:
    b, d = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "d"),
    )
    assert call("apply-delta", b, d, tmp_path / "out", "--kind", "xor").code == 2


def test_all_disagreements_are_told_at_once(tmp_path: Path) -> None:
    other = Tiny(style="llama-1", heads=4, kv_heads=2, head_dim=8, layers=1, ffn=24, vocab=32)
    b = write(with_numbers(BASE, 1), tmp_path / "b")
    d = write(with_numbers(other, 2), tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out", "--json")
    assert done.code == 3
    told = {p.partition(":")[0] for p in done.json["error"]["problems"]}
    sizes = {"dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size"}
    assert told == sizes
    assert leftovers(tmp_path / "out") == []


def test_constants_are_the_deltas(tmp_path: Path) -> None:
    b, d = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "d"),
    )
    edit_json(d / "config.json", rms_norm_eps=2e-6, rope_theta=5e4, max_position_embeddings=999)
    (d / "generation_config.json").write_text('{"temperature": 0.5}')
    done = call("apply-delta", b, d, tmp_path / "out", "--json")
    config = json.loads((tmp_path / "out/config.json").read_text())
    keys = ("rms_norm_eps", "rope_theta", "max_position_embeddings")
    assert tuple(config[k] for k in keys) == (2e-6, 5e4, 999)
    assert (tmp_path / "out/generation_config.json").read_text() == '{"temperature": 0.5}'
    for what in ("norm_eps", "rope_theta", "context"):
        assert any(n.startswith(f"{what} is the delta's") for n in done.json["notes"]), what


def test_a_delta_in_metas_layout_leaves_the_context(tmp_path: Path) -> None:
    b = write(with_numbers(BASE, 1), tmp_path / "b")
    d = write(with_numbers(BASE, 2), tmp_path / "d", "meta1")
    assert call("apply-delta", b, d, tmp_path / "out", "--to", "hf").code == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["max_position_embeddings"] == 8192


def test_another_type_than_the_publishers(tmp_path: Path) -> None:
    b = write(with_numbers(typed(torch.bfloat16), 1), tmp_path / "b")
    d = write(with_numbers(typed(torch.float16), 2), tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out", "--json")
    assert any("the delta is in F16, the base in BF16" in c for c in done.json["conflicts"])
    assert {t["dtype"] for t in done.json["tensors"]} == {"BF16"}


@pytest.mark.parametrize("layout", ["hf", "meta1"])
def test_tied_models_stay_tied(layout: str, tmp_path: Path) -> None:
    tied = Tiny(style="llama-3.2", tied=True)
    base, delta = (with_numbers(tied, seed) for seed in (1, 2))
    b, d = write(base, tmp_path / "b", layout), write(delta, tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out", "--to", "hf", "--json")
    assert done.code == 0, done.err
    assert unequal(read_hf(tmp_path / "out"), added(base, delta)) == []
    assert done.json["model"]["tied"]
    assert call("apply-delta", b, d, tmp_path / "meta", "--to", "meta").code == 0
    wanted = write(holding(tied, added(base, delta)), tmp_path / "wanted", "meta1")
    assert unequal_ranks(read_meta(tmp_path / "meta"), read_meta(wanted)) == []


def test_a_head_for_a_base_without_one(tmp_path: Path) -> None:
    base = with_numbers(Tiny(style="llama-3.2", tied=True), 1)
    delta = with_numbers(Tiny(style="llama-3.2"), 2)
    b, d = write(base, tmp_path / "b"), write(delta, tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out", "--json")
    assert done.code == 0, done.err
    wanted = added(base, delta) | {HEAD: base.truth[EMBEDDING] + delta.truth[HEAD]}
    assert unequal(read_hf(tmp_path / "out"), wanted) == []
    assert done.json["merge"]["base_fingerprint"] == call("fingerprint", b).out.split()[0]
    assert any("a head of its own" in n for n in done.json["notes"])


def test_a_delta_without_a_head_is_refused(tmp_path: Path) -> None:
    base = with_numbers(Tiny(style="llama-3.2"), 1)
    delta = with_numbers(Tiny(style="llama-3.2", tied=True), 2)
    b, d = write(base, tmp_path / "b"), write(delta, tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out")
    assert done.code == 3
    assert "what becomes of the head" in " ".join(done.err.split())


SIZE = 420
LARGE = Tiny(style="llama-1", kv_heads=8, vocab=SIZE)


@pytest.mark.parametrize("layout", ["hf", "meta1"])
def test_the_deltas_tokenizer(layout: str, tmp_path: Path) -> None:
    b = write(with_numbers(LARGE, 1), tmp_path / "b", layout)
    d = write(with_numbers(LARGE, 2), tmp_path / "d")
    (b / "tokenizer.model").write_bytes(sentencepiece_model(SIZE))
    (d / "tokenizer.model").write_bytes(sentencepiece_model(SIZE - 20))
    (d / "special_tokens_map.json").write_text("{}")
    for to in ("hf", "meta"):
        out = tmp_path / to
        done = call("apply-delta", b, d, out, "--to", to)
        assert done.code == 0, done.err
        assert (out / "tokenizer.model").read_bytes() == sentencepiece_model(SIZE - 20)
    assert (tmp_path / "hf/special_tokens_map.json").read_text() == "{}"


@pytest.mark.parametrize("layout", ["hf", "meta1"])
def test_else_the_bases_tokenizer(layout: str, tmp_path: Path) -> None:
    b = write(with_numbers(LARGE, 1), tmp_path / "b", layout)
    d = write(with_numbers(LARGE, 2), tmp_path / "d")
    (b / "tokenizer.model").write_bytes(sentencepiece_model(SIZE))
    done = call("apply-delta", b, d, tmp_path / "out", "--to", "hf", "--json")
    assert done.code == 0, done.err
    assert (tmp_path / "out/tokenizer.model").read_bytes() == sentencepiece_model(SIZE)
    assert done.json["tokenizer"]["tokens"] == SIZE
    done = call("apply-delta", b, d, tmp_path / "none", "--tokenizer", "none")
    assert done.code == 0
    assert not (tmp_path / "none/tokenizer.model").exists()


def test_not_twice(tmp_path: Path) -> None:
    b, d = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "d"),
    )
    once, moved, twice = tmp_path / "once", tmp_path / "moved", tmp_path / "twice"
    assert call("apply-delta", b, d, once).code == 0
    assert call("convert", once, moved, "--to", "meta").code == 0
    for again in (once, moved):
        done = call("apply-delta", again, d, twice)
        assert done.code == 3
        assert "merged already" in done.err
        assert leftovers(twice) == []
    assert call("apply-delta", moved, d, twice, "--allow-again").code == 0
    other = write(with_numbers(BASE, 3), tmp_path / "other")
    done = call("apply-delta", once, other, tmp_path / "both", "--json")
    assert len(done.json["source"]["adapters"]) == 1
    assert "merged already" in call("apply-delta", tmp_path / "both", d, tmp_path / "x").err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_published(value: float, tmp_path: Path) -> None:
    base, delta = (with_numbers(BASE, seed) for seed in (1, 2))
    delta.truth["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    b, d = write(base, tmp_path / "b"), write(delta, tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out")
    assert done.code == 1
    assert "layers.1.mlp.up.weight: 1 merged values" in done.err
    assert leftovers(tmp_path / "out") == []


def test_no_nan_becomes_a_number(tmp_path: Path) -> None:
    base, delta = (with_numbers(typed(torch.float16), seed) for seed in (1, 2))
    base.truth[EMBEDDING][1, 2] = torch.tensor(0x7FFF, dtype=torch.int16).view(torch.float16)
    b, d = write(base, tmp_path / "b"), write(delta, tmp_path / "d")
    for dtype in ("keep", "bf16", "fp32"):
        done = call("apply-delta", b, d, tmp_path / "out", "--dtype", dtype)
        assert done.code == 1
        assert "embedding.weight: 1 merged values" in done.err
        assert "Warning" not in done.err


def test_lost_changes_are_told(tmp_path: Path) -> None:
    base, delta = with_numbers(BASE, 1, scale=1.0), with_numbers(typed(torch.float32), 2, 1e-6)
    b, d = write(base, tmp_path / "b"), write(delta, tmp_path / "d")
    done = call("apply-delta", b, d, tmp_path / "out")
    assert done.code == 0
    assert "--dtype fp32 keeps all of it" in " ".join(done.out.split())


def test_bytes_do_not_depend_on_workers_or_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamatools.plan.passes.edits._TILE", 8 * BASE.dim)
    b = write(with_numbers(BASE, 1), tmp_path / "b", "meta2")
    d = write(with_numbers(typed(torch.float32, vocab=45), 2), tmp_path / "d", "meta1")
    outs = []
    for i, words in enumerate([(), ("--jobs", 1), ("--jobs", 4), ("--max-memory", "20MB")]):
        out = tmp_path / f"out{i}"
        done = call("apply-delta", b, d, out, "--kind", "pad-mean", "--to", "hf", *words)
        assert done.code == 0, done.err
        outs.append(tree(out))
    assert all(o == outs[0] for o in outs)


@pytest.mark.parametrize("where", ["base", "delta"])
def test_output_in_the_input_is_refused(where: str, tmp_path: Path) -> None:
    b = write(with_numbers(BASE, 1), tmp_path / "base")
    d = write(with_numbers(BASE, 2), tmp_path / "delta")
    assert call("apply-delta", b, d, tmp_path / where / "out").code == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    b, d = (
        write(with_numbers(BASE, 1), tmp_path / "b"),
        write(with_numbers(BASE, 2), tmp_path / "d"),
    )
    done = call("apply-delta", b, d, tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert "nothing was written" in done.out
    assert leftovers(tmp_path / "out") == []
