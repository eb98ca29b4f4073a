"""Opening: what tensors and configs say together, and lazily read values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, edit_json
from support.tiny import Tiny, as_bits, meta_rank
from support.tiny_files import hf_config, write_hf, write_meta, write_ranks

import llamatools
from llamatools.dtypes import BF16, F32

NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "layers.1.attention.q.weight": "model.layers.1.self_attn.q_proj.weight",
    "layers.0.attention.k.weight": "model.layers.0.self_attn.k_proj.weight",
    "layers.1.mlp.down.weight": "model.layers.1.mlp.down_proj.weight",
    "norm.weight": "model.norm.weight",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("files", [0, 1, 4], ids=["hf", "meta1", "meta4"])
def test_values_are_canonical_whatever_the_layout(name: str, files: int, tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64)
    source = (
        write_meta(model, tmp_path / "in", files) if files else write_hf(model, tmp_path / "in")
    )
    wanted = model.truth[NAMES[name]]
    with llamatools.open_checkpoint(source) as opened:
        value = opened.values[name]
        assert value.dtype is BF16
        assert value.shape == tuple(wanted.shape)
        bits = llamatools.read_tensor(value)
        assert torch.equal(torch.from_numpy(bits.view("i2")), as_bits(wanted))
        some = llamatools.read_tensor(value, value.granule, 2 * value.granule)
        assert (some == bits[value.granule : 2 * value.granule]).all()


def test_rows_that_are_not_there(hf: Path, meta: Path) -> None:
    with llamatools.open_checkpoint(hf) as opened:
        for start, stop in ((-1, 2), (3, 2), (0, 41)):
            with pytest.raises(ValueError, match="rows"):
                llamatools.read_tensor(opened.values["embedding.weight"], start, stop)
    with (
        llamatools.open_checkpoint(meta) as opened,
        pytest.raises(ValueError, match="groups of 6"),
    ):
        llamatools.read_tensor(opened.values["layers.0.attention.q.weight"], 3, 6)


def test_repeated_heads_collapse(tmp_path: Path) -> None:
    model = Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64)
    for stored in (8, 2):  # a config that counts the copies, and one that does not
        source = write_meta(model, tmp_path / f"{stored}", 8, stored_kv_heads=stored)
        with llamatools.open_checkpoint(source) as opened:
            assert opened.spec.n_kv_heads == 2
            assert opened.kv_copies == 4
            assert opened.conflicts == ()


def test_heads_that_only_look_repeated(tmp_path: Path) -> None:
    """Equal keys with other values are heads of their own."""
    model = Tiny(heads=4, kv_heads=4, head_dim=6, ffn=64)
    ranks = [meta_rank(model, r, 4) for r in range(4)]
    for rank in ranks[1:]:
        for i in range(2):
            key = f"layers.{i}.attention.wk.weight"
            rank[key] = ranks[0][key].clone()
    params = json.loads((write_meta(model, tmp_path / "p", 4) / "params.json").read_text())
    source = write_ranks(tmp_path / "in", ranks, params)
    with llamatools.open_checkpoint(source) as opened:
        assert opened.spec.n_kv_heads == 4


def test_buffers_are_dropped(tmp_path: Path) -> None:
    model = Tiny(style="llama-2", heads=4, kv_heads=4)
    ranks = [meta_rank(model, r, 2) | {"rope.freqs": torch.zeros(3)} for r in range(2)]
    params = json.loads((write_meta(model, tmp_path / "p", 2) / "params.json").read_text())
    source = write_ranks(tmp_path / "in", ranks, params)
    manifest = llamatools.convert(source, tmp_path / "out", llamatools.Options("meta", shards=1))
    assert manifest["source"]["buffers_dropped"] == ["rope.freqs"]  # type: ignore[index]
    assert "rope.freqs" not in torch.load(tmp_path / "out/consolidated.00.pth", weights_only=True)


def test_rotary_buffers_of_old_transformers_are_dropped(tmp_path: Path) -> None:
    model = Tiny()
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(3) for i in (0, 1)}
    torch.save(model.truth | old, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(model)))
    with llamatools.open_checkpoint(tmp_path) as opened:
        assert sorted(opened.dropped) == sorted(old)


def test_types_may_be_mixed(tmp_path: Path) -> None:
    source = write_hf(Tiny(norm_dtype=torch.float32), tmp_path / "in")
    with llamatools.open_checkpoint(source) as opened:
        assert opened.values["norm.weight"].dtype is F32
        assert opened.dtype is BF16


SHAPES = {
    "a row short": ("model.layers.1.mlp.up_proj.weight", (63, 48)),
    "a column more": ("model.layers.1.self_attn.o_proj.weight", (48, 49)),
    "transposed": ("model.layers.0.mlp.down_proj.weight", (64, 48)),
    "odd keys": ("model.layers.0.self_attn.k_proj.weight", (13, 48)),
    "no keys": ("model.layers.0.self_attn.k_proj.weight", (0, 48)),
    "a vector": ("model.layers.0.self_attn.q_proj.weight", (48,)),
    "a scalar": ("model.embed_tokens.weight", ()),
    "a cube": ("model.embed_tokens.weight", (4, 10, 48)),
    "a matrix for a norm": ("model.norm.weight", (48, 1)),
    "another vocabulary": ("lm_head.weight", (41, 48)),
}


@pytest.mark.parametrize(("name", "shape"), SHAPES.values(), ids=SHAPES)
def test_shapes_that_contradict_each_other(
    name: str, shape: tuple[int, ...], model: Tiny, hf: Path
) -> None:
    changed = model.truth | {name: torch.zeros(shape, dtype=torch.bfloat16)}
    save_file(changed, hf / "model.safetensors")
    done = call("inspect", hf)
    assert done.code == 3, done.out
    assert "error: " in done.err
    assert "defect" not in done.err


def test_half_of_the_biases(tmp_path: Path) -> None:
    model = Tiny(attention_bias=True)
    source = write_hf(model, tmp_path / "in")
    save_file(
        {n: t for n, t in model.truth.items() if not n.endswith("0.self_attn.o_proj.bias")},
        source / "model.safetensors",
    )
    done = call("inspect", source)
    assert done.code == 3
    assert "layers.0.attention.o.bias" in done.err


def test_files_are_closed(hf: Path) -> None:
    import os

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with llamatools.open_checkpoint(hf):
            pass
    edit_json(hf / "config.json", num_hidden_layers=9)
    for _ in range(3):
        with pytest.raises(llamatools.LlamatoolsError):
            llamatools.open_checkpoint(hf)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("name", ["Llama-3-8B-Instruct", "llama-2-7b-chat", "x"])
def test_token_ids_of_chat_models(name: str, tmp_path: Path) -> None:
    """The vocabulary must be large enough to have them."""
    model = Tiny(style="llama-3", heads=2, kv_heads=1, head_dim=2, layers=1, vocab=128256)
    source = write_meta(model, tmp_path / name, 1)
    llamatools.convert(source, tmp_path / "out", llamatools.Options("hf"))
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert config["bos_token_id"] == 128000
    assert config["eos_token_id"] == (128001 if name == "x" else [128001, 128009])


def test_token_ids_of_an_official_download(tmp_path: Path) -> None:
    """Official repositories keep Meta's files in `original`."""
    model = Tiny(style="llama-3", heads=2, kv_heads=1, head_dim=2, layers=1, vocab=128256)
    source = write_meta(model, tmp_path / "Meta-Llama-3-8B-Instruct" / "original", 1)
    llamatools.convert(source, tmp_path / "out", llamatools.Options("hf"))
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert config["eos_token_id"] == [128001, 128009]
