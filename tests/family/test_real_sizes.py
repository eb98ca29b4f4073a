"""The official releases at their real sizes: true headers in sparse files, read by the command.

Nothing here takes space, and nothing may take long: `inspect` and `--dry-run` read headers only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.calls import call
from support.sparse import Sizes, write_sparse_hf, write_sparse_meta

S7 = Sizes(4096, 32, 32, 32, 11008, 32000)
S13 = Sizes(5120, 40, 40, 40, 13824, 32000)
S70 = Sizes(8192, 80, 64, 8, 28672, 32000)
S8 = Sizes(4096, 32, 32, 8, 14336, 128256)
S70B = Sizes(8192, 80, 64, 8, 28672, 128256)
S405 = Sizes(16384, 126, 128, 8, 53248, 128256)
S1 = Sizes(2048, 16, 32, 8, 8192, 128256)
S3 = Sizes(3072, 28, 24, 8, 8192, 128256)


def _llama3(dim: int, layers: int, heads: int, ffn: float, multiple: int, **more: Any) -> Any:
    """params.json as released."""
    return {
        "dim": dim,
        "ffn_dim_multiplier": ffn,
        "multiple_of": multiple,
        "n_heads": heads,
        "n_kv_heads": 8,
        "n_layers": layers,
        "norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "vocab_size": 128256,
        **more,
    }


@dataclass(frozen=True)
class Release:
    title: str
    sizes: Sizes
    files: int
    params: dict[str, Any]
    total: int
    columns: bool = False
    tied: bool = False


OLD: dict[str, Any] = {"vocab_size": -1, "multiple_of": 256}
SCALED = {"use_scaled_rope": True}
RELEASES = (
    Release(
        "Llama 1 7B", S7, 1,
        {**OLD, "dim": 4096, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6},
        6_738_415_616, columns=True,
    ),
    Release(
        "Llama 2 13B", S13, 2,
        {**OLD, "dim": 5120, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-5},
        13_015_864_320, columns=True,
    ),
    Release(
        "Llama 2 70B", S70, 8,
        {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64,
         "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-5, "vocab_size": -1},
        68_976_648_192, columns=True,
    ),
    Release("Llama 3 8B", S8, 1, _llama3(4096, 32, 32, 1.3, 1024), 8_030_261_248),
    Release(
        "Llama 3.1 70B or 3.3 70B", S70B, 8, _llama3(8192, 80, 64, 1.3, 4096, **SCALED),
        70_553_706_496,
    ),
    Release(
        "Llama 3.1 405B", S405, 8, _llama3(16384, 126, 128, 1.2, 4096, **SCALED),
        405_853_388_800,
    ),
    Release(
        "Llama 3.1 405B", S405, 16,
        _llama3(16384, 126, 128, 1.2, 4096, **SCALED) | {"n_kv_heads": 16},
        405_853_388_800,
    ),
    Release(
        "Llama 3.2 1B", S1, 1, _llama3(2048, 16, 32, 1.5, 256, **SCALED), 1_235_814_400, tied=True
    ),
    Release(
        "Llama 3.2 3B", S3, 1, _llama3(3072, 28, 24, 1.0, 256, **SCALED), 3_212_749_824, tied=True
    ),
)  # fmt: skip


def _write(release: Release, folder: Path) -> Path:
    return write_sparse_meta(
        folder, release.sizes, release.files, release.params,
        columns=release.columns, tied=release.tied,
    )  # fmt: skip


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: f"{r.title} in {r.files}")
def test_meta_releases(release: Release, tmp_path: Path) -> None:
    source = _write(release, tmp_path / "in")
    start = time.monotonic()
    seen = call("inspect", source, "--json")
    assert time.monotonic() - start < 20
    assert seen.code == 0, seen.err
    report, sizes = seen.json, release.sizes
    assert report["model"]["title"] == release.title
    assert report["model"]["exact"] is True
    assert report["parameters"]["unique"] == release.total
    assert report["shards"] == len(report["files"]) == release.files
    assert report["architecture"]["n_kv_heads"] == sizes.kv_heads
    assert report["architecture"]["ffn_dim"] == sizes.ffn
    assert report["architecture"]["tied"] is release.tied
    assert report["conflicts"] == []
    if release.title == "Llama 3.2 3B":
        return  # comparing its head with its embedding reads 1.6 GB; the 1B has been through that
    for there, options in (("hf", ()), ("meta", ("--shards", 8 if sizes.heads % 8 == 0 else 1))):
        plan = call(
            "convert", source, tmp_path / "o", "--to", there, "--dry-run", "--json", *options
        )
        assert plan.code == 0, plan.err
        assert plan.json["model"]["n_kv_heads"] == sizes.kv_heads
        weights = 2 * (release.total + (release.tied and there == "meta") * _head(sizes))
        planned = sum(f["bytes"] for f in plan.json["files"])
        assert weights < planned < weights * 1.01


def _head(m: Sizes) -> int:
    return m.vocab * m.dim


def test_405b_in_time(tmp_path: Path) -> None:
    """Sixteen files of a thousand tensors each. The bounds are generous."""
    release = RELEASES[6]
    source = _write(release, tmp_path / "in")
    for command in (
        ("inspect", source),
        ("convert", source, tmp_path / "o", "--to", "hf", "--dry-run"),
    ):
        start = time.monotonic()
        assert call(*command).code == 0
        assert time.monotonic() - start < 15
    assert not (tmp_path / "o").exists()


def _config(m: Sizes, **more: Any) -> dict[str, Any]:
    """config.json as released with Llama 3.1."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": m.dim,
        "intermediate_size": m.ffn,
        "max_position_embeddings": 131072,
        "num_attention_heads": m.heads,
        "num_hidden_layers": m.layers,
        "num_key_value_heads": m.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": m.vocab,
        **more,
    }


SMALL = {"tie_word_embeddings": True, "head_dim": 64}


@pytest.mark.parametrize(
    ("title", "sizes", "total", "shards", "changes"),
    [
        ("Llama 3.1 8B", S8, 8_030_261_248, 1, {}),
        ("Llama 3.1 70B or 3.3 70B", S70B, 70_553_706_496, 8, {}),
        ("Llama 3.1 405B", S405, 405_853_388_800, 8, {}),
        ("Llama 3.2 1B", S1, 1_235_814_400, 1, SMALL),
    ],
)
def test_hf_releases(
    title: str, sizes: Sizes, total: int, shards: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = _config(sizes, **changes)
    if changes:
        config["rope_scaling"]["factor"] = 32.0
    source = write_sparse_hf(tmp_path / "in", sizes, config)
    seen = call("inspect", source, "--json")
    assert seen.code == 0, seen.err
    assert seen.json["model"]["title"] == title
    assert seen.json["model"]["exact"] is True
    assert seen.json["parameters"]["unique"] == total
    plan = call("convert", source, tmp_path / "o", "--to", "meta", "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert [f["name"] for f in plan.json["files"]] == [
        f"consolidated.{i:02d}.pth" for i in range(shards)
    ]


def test_a_tied_release_in_safetensors(tmp_path: Path) -> None:
    """Meta's names, no checksums: what headers cannot tell must not be asserted."""
    from support.sparse import meta_entries, write_sparse

    from llamatools.containers.safetensors_write import safetensors_layout

    release = RELEASES[7]
    source = _write(release, tmp_path / "in")
    (source / "consolidated.00.pth").unlink()
    entries = list(meta_entries(release.sizes, 1, columns=False))
    write_sparse(source / "consolidated.safetensors", safetensors_layout(entries, {}))
    seen = call("inspect", source, "--json")
    assert seen.code == 0, seen.err
    assert seen.json["model"]["official"] == "llama-3.2-1b"
    assert "tied" not in {e["what"] for e in seen.json["model"]["evidence"] if not e["agrees"]}
