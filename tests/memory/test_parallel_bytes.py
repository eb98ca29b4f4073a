"""Bytes of ranks, held against checkpoints that are really divided."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.calls import call
from support.tiny import Tiny
from support.tiny_files import read_meta, write_hf, write_meta

from llamatools.memory.architecture import dense
from llamatools.memory.engines import ENGINES, PLAIN
from llamatools.memory.formats import FORMATS
from llamatools.memory.need import Deployment
from llamatools.memory.parallel import (
    allowed_tp,
    kv_heads,
    problems,
    rank_shape,
    shares,
    stage_layers,
    vocabulary,
)
from llamatools.memory.parameters import weights
from llamatools.memory.registry import by_name
from llamatools.memory.source import Subject, read_subject

MODELS = (
    Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=41),
    Tiny(heads=8, kv_heads=8, head_dim=4, ffn=64, vocab=40, attention_bias=True, mlp_bias=True),
    Tiny(style="llama-2", heads=8, kv_heads=1, head_dim=4, ffn=64, vocab=43),
    Tiny(style="llama-3.2", heads=8, kv_heads=4, head_dim=4, ffn=64, vocab=40, tied=True),
)


def _rank(s: Subject, tp: int, rank: int) -> int:
    a = s.architecture
    return sum(w.bytes_of(rank_shape(w, a, tp, rank, PLAIN)) for w in s.weights)


def _files(folder: Path, *, tied: bool) -> list[int]:
    """Bytes of each file's tensors. Meta's files hold a tied head apart; a GPU does not."""
    return [
        sum(t.nbytes for name, t in rank.items() if not (tied and name == "output.weight"))
        for rank in read_meta(folder)
    ]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_ranks_are_files_of_a_divided_checkpoint(model: Tiny, tp: int, tmp_path: Path) -> None:
    """Once divided by `convert`, once by the tests' own code; heads are repeated where needed."""
    source = write_hf(model, tmp_path / "hf")
    asked = source if model.constants.split == "rows" else write_meta(model, tmp_path / "whole", 1)
    subject = read_subject(str(asked))
    ranks = [_rank(subject, tp, rank) for rank in range(tp)]
    own = write_meta(model, tmp_path / "own", tp)
    assert ranks == _files(own, tied=model.tied)
    out = tmp_path / "out"
    assert call("convert", asked, out, "--to", "meta", "--shards", tp).code == 0
    assert ranks == _files(out, tied=model.tied)
    # The control: bytes divided evenly are not those of files.
    if tp > 1:
        assert ranks != [sum(w.nbytes for w in subject.weights) // tp] * tp
    assert max(ranks) == ranks[-1]
    assert shares(subject.weights, subject.architecture, tp, tp - 1, PLAIN).total == ranks[-1]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_divided_checkpoint_needs_what_a_whole_one_does(model: Tiny, tmp_path: Path) -> None:
    """Copies of key-value heads count once, and are said."""
    whole = read_subject(str(write_meta(model, tmp_path / "1", 1)))
    parts = read_subject(str(write_meta(model, tmp_path / "8", 8, stored_kv_heads=model.kv_heads)))
    assert [w.nbytes for w in whole.weights] == [w.nbytes for w in parts.weights]
    said = [w for w in parts.warnings if "key-value head" in w]
    assert bool(said) == (model.kv_heads < 8)
    assert parts.stored is not None
    assert parts.stored.nbytes > sum(w.nbytes for w in parts.weights) or not said


def test_more_ranks_than_heads() -> None:
    named = by_name("llama-3.1-405b")
    assert named is not None
    a = named.architecture
    assert [kv_heads(a, tp) for tp in (1, 2, 4, 8, 16, 32)] == [8, 4, 2, 1, 1, 1]


def test_stages() -> None:
    assert [len(s) for s in stage_layers(126, 4)] == [31, 32, 32, 31]
    assert [len(s) for s in stage_layers(7, 3)] == [2, 3, 2]
    assert [len(s) for s in stage_layers(5, 5)] == [1] * 5
    for n in range(1, 20):
        for pp in range(1, n + 1):
            flat = [i for stage in stage_layers(n, pp) for i in stage]
            assert flat == list(range(n))


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b"])
def test_stages_hold_everything(name: str) -> None:
    """The embedding at the start, the head at the end; a tied one twice, once there are two."""
    named = by_name(name)
    assert named is not None
    a = named.architecture
    every = weights(a)
    total = sum(w.nbytes for w in every)
    embedding = a.spec.vocab_size * a.spec.dim * 2
    s = shares(every, a, 1, 0, PLAIN)
    for pp in (1, 2, 3, 16):
        d = Deployment(a, s, FORMATS["bf16"], pp=pp)
        extra = embedding if a.spec.tied and pp > 1 else 0
        assert sum(stage.weights for stage in d.stages) == total + extra
        assert d.need(100, 1).weights == max(stage.weights for stage in d.stages)


def test_refusals_name_every_reason() -> None:
    named = by_name("llama-3.2-3b")
    assert named is not None
    a = named.architecture  # 24 heads, 8 for keys and values
    assert problems(a, 8, 28) == []
    assert len(problems(a, 3, 29)) == 3
    assert allowed_tp(a, 16) == [1, 2, 4, 8]
    seen = call("inspect", "llama-3.2-3b", "--kv-memory", "--tp", 3, "--pp", 29)
    assert seen.code == 2
    assert seen.err.count("error:") == 3


def test_padding() -> None:
    assert vocabulary(32001, 2, ENGINES["vllm"]) == 32064
    assert vocabulary(32001, 2, PLAIN) == 32001
    assert vocabulary(64, 3, ENGINES["vllm"]) == 192
    named = by_name("code-llama-7b")
    assert named is not None
    a = named.architecture
    plain = shares(weights(a), a, 2, 1, PLAIN).total
    padded = shares(weights(a), a, 2, 1, ENGINES["vllm"]).total
    assert padded - plain == 2 * (32064 - 32016) // 2 * 4096 * 2


def test_dense_is_every_layer_alike() -> None:
    named = by_name("llama-3.1-8b")
    assert named is not None
    assert named.architecture.counts.total() == named.architecture.spec.n_layers
    assert dense(named.architecture.spec).counts == named.architecture.counts
