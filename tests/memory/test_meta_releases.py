"""Meta's own folders of kinds that are not converted: FP8 405B, and Llama 4's params.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calls import call
from support.tiny import Tensors, Tiny
from support.tiny_files import meta_params, meta_rank, read_meta, write_ranks

from llamatools.memory.config import read_meta as read_params
from llamatools.memory.parameters import weights
from llamatools.memory.registry import by_name

VISION = {
    "image_size": {"height": 336, "width": 336}, "patch_size": {"height": 14, "width": 14},
    "dim": 1408, "n_layers": 34, "n_heads": 16, "mlp_ratio": 4.0, "output_dim": 4096,
    "pixel_shuffle_ratio": 0.5,
}  # fmt: skip
MOE = {"num_experts": 16, "capacity_factor": 1.0, "auto_scale_F": True, "top_k": 1,
       "interleave_moe_layer_step": 1}  # fmt: skip
SCOUT = {
    "dim": 5120, "n_layers": 48, "n_heads": 40, "n_kv_heads": 8, "vocab_size": 202048,
    "multiple_of": 2048, "ffn_dim_multiplier": 1.2, "ffn_exp": 4.0, "norm_eps": 1e-5,
    "rope_theta": 5e5, "use_scaled_rope": True, "attention_chunk_size": 8192,
    "nope_layer_interval": 4, "use_qk_norm": True, "moe_args": MOE, "vision_args": VISION,
}  # fmt: skip
MAVERICK = SCOUT | {"moe_args": MOE | {"num_experts": 128, "interleave_moe_layer_step": 2}}
_SMALL = {"dim": 64, "n_layers": 5, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 100,
          "multiple_of": 16, "ffn_dim_multiplier": 1.3, "ffn_exp": 3.5,
          "nope_layer_interval": 3}  # fmt: skip
_SMALL_VISION = VISION | {"dim": 32, "n_heads": 4, "n_layers": 2, "output_dim": 48,
                          "image_size": {"height": 28, "width": 28}}  # fmt: skip
ODD = [
    SCOUT | _SMALL | {"vision_args": _SMALL_VISION, "moe_args": MOE | changed}
    for changed in (
        {"num_experts": 3, "interleave_moe_layer_step": 2, "capacity_factor": 2.0},
        {"num_experts": 2, "auto_scale_F": False},
    )
]


@pytest.mark.parametrize(
    ("name", "params"), [("llama-4-scout", SCOUT), ("llama-4-maverick", MAVERICK)]
)
def test_llama_4(name: str, params: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    for given in (
        params,
        {"model": params},
        {k: v for k, v in params.items() if k != "vocab_size"},
    ):
        file.write_text(json.dumps(given))
        found = call("inspect", file, "--kv-memory", "--json").json
        named = call("inspect", name, "--kv-memory", "--json").json
        for part in ("model", "architecture", "parameters", "weights", "kv", "contexts"):
            assert found[part] == named[part], part
        assert any("202,048" in n for n in found["notes"]) is ("vocab_size" not in str(given))
    named = by_name(name)
    assert named is not None
    assert read_params(params).architecture.layers == named.architecture.layers


def _numel(params: dict[str, Any]) -> int:
    return sum(w.numel for w in weights(read_params(params).architecture))


META = """
import json, sys, torch
torch.distributed.init_process_group("gloo")
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
initialize_model_parallel(1)
torch.Tensor.cuda = lambda self, *_, **__: self
from llama_models.llama4.args import ModelArgs
from llama_models.llama4.model import Transformer
found = []
for params in json.loads(sys.argv[1]):
    with torch.device("meta"):
        model = Transformer(ModelArgs(**params | {"use_scaled_rope": False}))
    found.append(sum(p.numel() for p in model.parameters()))
print("found", json.dumps(found))
"""


@pytest.mark.meta
def test_llama_4_as_metas_code_builds_it() -> None:
    every = [SCOUT, MAVERICK, *ODD]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0",
           "WORLD_SIZE": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", META, json.dumps(every)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.split("found")[1]) == [_numel(p) for p in every]


def test_widths_of_experts_are_metas() -> None:
    """Totals that Meta's code gives for odd sizes (the test above), without that code."""
    assert [_numel(p) for p in ODD] == [348_480, 720_448]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no experts": ({"moe_args": {}}, "num_experts is missing"),
    "experts": ({"moe_args": 7}, "moe_args: expected an object"),
    "width": ({"ffn_exp": -1}, "ffn_exp: expected a positive number"),
    "no width": ({"ffn_exp": None}, "ffn_exp is missing"),
    "huge": ({"multiple_of": 1 << 39}, "more than any model has"),
    "chunks": ({"attention_chunk_size": "8k"}, "attention_chunk_size: expected"),
    "step": ({"moe_args": MOE | {"interleave_moe_layer_step": 0}}, "interleave_moe_layer_step"),
    "image": ({"vision_args": VISION | {"image_size": 336}}, "image_size: expected an object"),
    "oblong": (
        {"vision_args": VISION | {"patch_size": {"height": 14, "width": 7}}}, "a square"
    ),
    "no tower": ({"vision_args": {}}, "n_layers is missing"),
    "shuffle": ({"vision_args": VISION | {"pixel_shuffle_ratio": 0.25}}, "as wide as 22,528"),
    "wide tower": ({"vision_args": VISION | {"output_dim": 1 << 30}}, "more than any model"),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG)
def test_llama_4_of_wrong_values(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(SCOUT | changed))
    seen = call("inspect", file, "--kv-memory")
    assert seen.code == 3
    assert words in seen.err
    assert call("inspect", file).code == 3


def _fp8(rank: Tensors, layers: int) -> Tensors:
    """As Meta's FP8 release: feed-forwards but those of the first and the last layer."""
    ends = ("layers.0.", f"layers.{layers - 1}.")
    return {
        n: t.float().nan_to_num().to(torch.float8_e4m3fn)
        if "feed_forward" in n and not n.startswith(ends)
        else t
        for n, t in rank.items()
    }


@pytest.mark.parametrize("args", [{}, {"quantization_args": {"scheme": "fp8_mixed"}}])
def test_an_fp8_release(args: dict[str, Any], tmp_path: Path) -> None:
    model = Tiny(style="llama-3.1", heads=8, kv_heads=2, head_dim=6, ffn=64, vocab=40, layers=4)
    folder = tmp_path / "fp8"
    ranks = [_fp8(meta_rank(model, r, 2), 4) for r in range(2)]
    write_ranks(folder, ranks, meta_params(model, 2) | args)
    for rank in range(2):
        torch.save({f"1_feed_forward.w1_{rank}": torch.ones(32)}, folder / f"fp8_scales_{rank}.pt")
    report = call("inspect", folder, "--kv-memory", "--json").json
    held = sum(t.nbytes for rank in read_meta(folder) for t in rank.values())
    assert report["weights"]["stored"]["total"] == {"value": held, "kind": "exact"}
    assert set(report["weights"]["stored"]["by_dtype"]) == {"BF16", "F8_E4M3"}
    truth = sum(t.numel() for t in model.truth.values())
    assert report["parameters"]["unique"]["value"] == truth
    assert report["kv"]["dtype"] == "bf16"
    assert any("quantised weights" in w for w in report["warnings"])
    assert any("2 files of scales" in n for n in report["notes"])
    shown = call("inspect", folder, "--kv-memory").out
    assert "KiB as stored; 2 files" in shown
    refused = call("convert", folder, tmp_path / "out", "--to", "hf")
    assert refused.code == 3
    assert "an FP8 quantised Llama release: fp8_scales_0.pt" in refused.err
