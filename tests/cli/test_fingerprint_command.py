"""`fingerprint`: equal where and only where every tensor is, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, edit_json
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

import llamatools


def test_equal_models(hf: Path, meta: Path) -> None:
    done = call("fingerprint", hf, meta)
    assert done.code == 0
    one, two, verdict = done.out.splitlines()
    assert one.split()[0] == two.split()[0]
    assert verdict == "equal: every tensor is the same, bit for bit"


def _changed(model: Tiny, folder: Path, *names: str) -> Path:
    source = write_hf(model, folder)
    tensors = {n: t.clone() for n, t in model.truth.items()}
    for name in names:
        tensors[name].view(torch.int16).view(-1)[-1] ^= 1
    save_file(tensors, source / "model.safetensors")
    return source


@pytest.mark.parametrize(
    ("native", "canonical"),
    [
        ("model.embed_tokens.weight", "embedding.weight"),
        ("model.layers.1.self_attn.k_proj.weight", "layers.1.attention.k.weight"),
        ("model.layers.0.mlp.down_proj.weight", "layers.0.mlp.down.weight"),
        ("model.norm.weight", "norm.weight"),
        ("lm_head.weight", "head.weight"),
    ],
)
def test_one_bit(native: str, canonical: str, model: Tiny, hf: Path, tmp_path: Path) -> None:
    other = _changed(model, tmp_path / "other", native)
    done = call("fingerprint", hf, other)
    assert done.code == 1
    assert [x for x in done.out.splitlines() if x.startswith("differs: ")] != []
    report = call("fingerprint", hf, other, "--json")
    assert report.code == 1
    assert report.json["equal"] is False
    assert report.json["different"] == [canonical]


def test_all_differences_are_named(model: Tiny, meta: Path, tmp_path: Path) -> None:
    other = _changed(
        model, tmp_path / "o", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
    )
    found = call("fingerprint", meta, other, "--json").json["different"]
    assert found == ["layers.0.attention.q.weight", "norm.weight"]


def test_models_of_other_sizes(hf: Path, tmp_path: Path) -> None:
    other = write_hf(
        Tiny(heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=40, layers=3), tmp_path / "o"
    )
    done = call("fingerprint", hf, other)
    assert done.code == 1
    assert "differs: layers.2.attention.k.weight: absent | BF16 [12, 48]" in done.out


def test_a_tied_head_stored_or_not_is_one_model(tmp_path: Path) -> None:
    model = Tiny(style="llama-3.2", tied=True)
    a, b = write_hf(model, tmp_path / "hf"), write_meta(model, tmp_path / "meta", 1)
    assert call("fingerprint", a, b).code == 0


def test_another_type_is_another_model(hf: Path, tmp_path: Path) -> None:
    llamatools.convert(hf, tmp_path / "out", llamatools.Options("hf", dtype="fp32"))
    assert call("fingerprint", hf, tmp_path / "out").code == 1


def test_constants_are_no_tensors(hf: Path, tmp_path: Path, model: Tiny) -> None:
    other = write_hf(model, tmp_path / "other")
    edit_json(other / "config.json", rope_theta=7.0, rms_norm_eps=1e-3)
    assert call("fingerprint", hf, other).code == 0


def test_every_tensor_on_request(hf: Path, model: Tiny) -> None:
    done = call("fingerprint", hf, "--tensors")
    assert len(done.out.splitlines()) == 1 + len(model.truth)
    tensors = call("fingerprint", hf, "--tensors", "--json").json["fingerprints"][0]["tensors"]
    assert [t["name"] for t in tensors] == sorted(t["name"] for t in tensors)
    assert {t["dtype"] for t in tensors} == {"BF16"}


def test_the_manifest_holds_the_same_digests(hf: Path, tmp_path: Path) -> None:
    manifest = llamatools.convert(hf, tmp_path / "out", llamatools.Options("meta"))
    found = llamatools.fingerprint(hf)
    assert manifest["fingerprint"] == found.digest
    held = {t["name"]: t["blake3"] for t in manifest["tensors"]}  # type: ignore[attr-defined]
    assert held == {n: t.blake3 for n, t in found.tensors.items()}


def test_files_are_digested_as_b3sum_does(hf: Path, tmp_path: Path) -> None:
    from blake3 import blake3

    out = tmp_path / "out"
    manifest = llamatools.convert(hf, out, llamatools.Options("meta", shards=2))
    files = {f["name"]: f for f in manifest["files"]}  # type: ignore[attr-defined]
    assert files.keys() == {p.name for p in out.iterdir()} - {"llamatools.json"}
    for name, f in files.items():
        data = (out / name).read_bytes()
        assert (f["bytes"], f["blake3"]) == (len(data), blake3(data).hexdigest())


def test_a_second_source_that_is_not_there_is_found_before_reading(
    hf: Path, tmp_path: Path
) -> None:
    done = call("fingerprint", hf, tmp_path / "nowhere")
    assert done.code == 3
    assert "100%" not in done.err
