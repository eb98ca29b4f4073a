"""Both directions against files written without llamatools, bit for bit.

Every model is made as HF files and as Meta files of several counts by `support.tiny`. Whatever
`convert` makes of one must be the other, so a round trip cannot hide two mistakes that cancel.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import STYLES, Tensors, Tiny, meta_rank
from support.tiny_files import (
    read_hf,
    read_meta,
    unequal,
    unequal_ranks,
    write_hf,
    write_meta,
    write_ranks,
)

import llamatools

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

COUNTS = {(8, 2): (1, 2, 4, 8), (6, 1): (1, 2, 3, 6), (4, 4): (1, 2, 4)}
"""Files that (heads, kv heads) can be split over, more than there are kv heads included."""

MODELS = [
    *(Tiny(style=style, heads=8, kv_heads=2) for style in STYLES),
    *(Tiny(style=style, heads=6, kv_heads=1, dtype=F16) for style in ("llama-2", "llama-3.1")),
    *(Tiny(style=style, heads=4, kv_heads=4, dtype=F32) for style in ("llama-1", "llama-3")),
    Tiny(head_dim=2),
    Tiny(head_dim=10, dtype=F16, layers=3),
    Tiny(dtype=F32),
    Tiny(norm_dtype=F32),
    Tiny(style="llama-2", heads=6, kv_heads=1, dtype=F16, norm_dtype=F32),
    Tiny(attention_bias=True),
    Tiny(mlp_bias=True),
    Tiny(style="llama-2", heads=6, kv_heads=1, attention_bias=True, mlp_bias=True, dtype=F16),
    Tiny(style="llama-2", heads=4, kv_heads=4, attention_bias=True, dtype=F32, norm_dtype=BF16),
    Tiny(style="llama-3.2", tied=True),
    Tiny(style="llama-2", heads=6, kv_heads=1, tied=True, dtype=F16),
    Tiny(style="llama-3.2", heads=4, kv_heads=4, tied=True, attention_bias=True, dtype=F32),
]


def _counts(model: Tiny) -> tuple[int, ...]:
    return COUNTS[model.heads, model.kv_heads]


def _expected_ranks(model: Tiny, files: int) -> list[Tensors]:
    return [meta_rank(model, rank, files) for rank in range(files)]


@pytest.mark.parametrize(
    ("model", "version"),
    [*((m, 4 + i % 2) for i, m in enumerate(MODELS)), (MODELS[-1], 4), (MODELS[0], 5)],
    ids=str,
)
def test_hf_to_meta_and_back(model: Tiny, version: int, tmp_path: Path) -> None:
    """From configs as transformers 4 and 5 write them."""
    source = write_hf(model, tmp_path / "hf", version=version)
    digests = {llamatools.fingerprint(source).digest}
    for files in _counts(model):
        meta, back = tmp_path / f"meta{files}", tmp_path / f"back{files}"
        llamatools.convert(source, meta, llamatools.Options(to="meta", shards=files))
        assert unequal_ranks(read_meta(meta), _expected_ranks(model, files)) == []
        params = json.loads((meta / "params.json").read_text())
        assert params["n_kv_heads"] == max(model.kv_heads, files)
        llamatools.convert(meta, back, llamatools.Options(to="hf"))
        assert unequal(read_hf(back), model.truth) == []
        digests |= {llamatools.fingerprint(meta).digest, llamatools.fingerprint(back).digest}
    assert len(digests) == 1


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_meta_to_hf_to_other_counts_and_back(model: Tiny, tmp_path: Path) -> None:
    """Meta(a) -> HF -> Meta(b) -> Meta(a): b is the next count, so every step of a ring is gone."""
    counts = _counts(model)
    for a, b in zip(counts, (*counts[1:], counts[0]), strict=True):
        home = tmp_path / str(a)
        source = write_meta(model, home / "a", a)
        llamatools.convert(source, home / "hf", llamatools.Options(to="hf"))
        assert unequal(read_hf(home / "hf"), model.truth) == []
        llamatools.convert(home / "hf", home / "b", llamatools.Options(to="meta", shards=b))
        assert unequal_ranks(read_meta(home / "b"), _expected_ranks(model, b)) == []
        llamatools.convert(home / "b", home / "back", llamatools.Options(to="meta", shards=a))
        assert unequal_ranks(read_meta(home / "back"), read_meta(source)) == []


@pytest.mark.parametrize("model", [Tiny(), Tiny(style="llama-2", heads=6, kv_heads=1)], ids=str)
def test_meta_to_meta_over_every_pair_of_counts(model: Tiny, tmp_path: Path) -> None:
    for a in _counts(model):
        source = write_meta(model, tmp_path / f"{a}", a)
        for b in _counts(model):
            out = tmp_path / f"{a}to{b}"
            llamatools.convert(source, out, llamatools.Options(to="meta", shards=b))
            assert unequal_ranks(read_meta(out), _expected_ranks(model, b)) == []


@pytest.mark.parametrize("model", [Tiny(), Tiny(style="llama-3.2", tied=True)], ids=str)
def test_containers_alone_change_nothing_else(model: Tiny, tmp_path: Path) -> None:
    """bin -> safetensors in both layouts; Meta's names and row order stay."""
    write_hf(model, tmp_path / "hf")
    llamatools.convert(
        tmp_path / "hf", tmp_path / "bin", llamatools.Options(to="hf", weights="bin")
    )
    assert unequal(read_hf(tmp_path / "bin"), model.truth) == []
    options = llamatools.Options(to="safetensors")
    llamatools.convert(tmp_path / "bin", tmp_path / "hf2", options)
    assert unequal(read_hf(tmp_path / "hf2"), model.truth) == []
    for files in (1, 4):
        meta = write_meta(model, tmp_path / f"meta{files}", files)
        llamatools.convert(meta, tmp_path / f"whole{files}", options)
        assert unequal(read_hf(tmp_path / f"whole{files}"), meta_rank(model, 0, 1)) == []
        llamatools.convert(
            tmp_path / f"whole{files}",
            tmp_path / f"pth{files}",
            llamatools.Options(to="meta", shards=files),
        )
        assert unequal_ranks(read_meta(tmp_path / f"pth{files}"), read_meta(meta)) == []


@pytest.mark.parametrize("files", [1, 2, 4])
@pytest.mark.parametrize("style", ["llama-2", "llama-3"])
def test_strided_shared_and_padded_storages(style: str, files: int, tmp_path: Path) -> None:
    """torch.save keeps a view's strides and its whole storage, which tensors may share."""
    model = Tiny(style=style)
    ranks = [_in_odd_storages(r) for r in _expected_ranks(model, files)]
    source = write_ranks(
        tmp_path / "odd",
        ranks,
        json.loads((write_meta(model, tmp_path / "plain", files) / "params.json").read_text()),
    )
    assert not all(t.is_contiguous() for t in read_meta(source)[0].values())
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "hf"), model.truth) == []
    llamatools.convert(source, tmp_path / "meta", llamatools.Options(to="meta", shards=2))
    assert unequal_ranks(read_meta(tmp_path / "meta"), _expected_ranks(model, 2)) == []


def _in_odd_storages(tensors: Tensors) -> Tensors:
    """The same values as transposed views, views into a wider matrix, and runs of one storage."""
    flat = torch.cat([t.flatten() for t in tensors.values()])
    out: Tensors = {}
    at = 0
    for i, (name, t) in enumerate(tensors.items()):
        if i % 3 == 0 or t.dim() == 1:
            out[name] = flat[at : at + t.numel()].view(t.shape)
        elif i % 3 == 1:
            out[name] = t.t().contiguous().t()
        else:
            wide = torch.zeros(t.shape[0] + 1, t.shape[1] + 3, dtype=t.dtype)
            wide[1:, 2:-1] = t
            out[name] = wide[1:, 2:-1]
        at += t.numel()
    return out


@pytest.mark.parametrize("style", ["llama-1", "llama-2", "code-llama"])
def test_rotary_buffers_are_no_weights(style: str, tmp_path: Path) -> None:
    """Meta's files of these hold rope.freqs, old HF files inv_freq: neither is written."""
    model = Tiny(style=style)
    freqs = torch.linspace(1.0, 0.01, model.head_dim // 2)
    ranks = [
        meta_rank(model, rank, 2)
        | {"rope.freqs": freqs.to(model.dtype)}
        | {f"layers.{i}.attention.inner_attention.rope.freqs": freqs for i in range(model.layers)}
        for rank in range(2)
    ]
    params = json.loads((write_meta(model, tmp_path / "plain", 2) / "params.json").read_text())
    source = write_ranks(tmp_path / "meta", ranks, params)
    llamatools.convert(source, tmp_path / "hf", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "hf"), model.truth) == []
    llamatools.convert(source, tmp_path / "recut", llamatools.Options(to="meta", shards=4))
    assert unequal_ranks(read_meta(tmp_path / "recut"), _expected_ranks(model, 4)) == []
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": freqs for i in range(model.layers)}
    path = write_hf(model, tmp_path / "old") / "model.safetensors"
    save_file(model.truth | {n: t.clone() for n, t in old.items()}, path, {"format": "pt"})
    llamatools.convert(tmp_path / "old", tmp_path / "new", llamatools.Options(to="hf"))
    assert unequal(read_hf(tmp_path / "new"), model.truth) == []
    digests = [llamatools.fingerprint(p).digest for p in (source, tmp_path / "old")]
    assert digests == [llamatools.fingerprint(tmp_path / "hf").digest] * 2
