"""litgpt's adapters: queries, keys and values in one pair of factors, settings in YAML.

Files are made from factors in Hugging Face's terms. Where litgpt grouped the rows of its attention
matrix, what must come out is worked out head by head, as its code adds them up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calls import Called, call
from support.lora import LINEAR, PREFIX, RANK, factors, sums
from support.merged import differ, merged
from support.merged import refused as refused_on
from support.tiny import Tensors, Tiny, finite
from support.tiny_files import write_hf, write_meta

from llamatools.adapters.litgpt import MODEL as MODEL_FILE
from llamatools.adapters.litgpt import SETTINGS

MODEL = finite(Tiny())
ALPHA = 5
SCALE = ALPHA / RANK
SPLIT, GROUPED = "qkv", "attn"
QKV = ("q_proj", "k_proj", "v_proj")

OTHERS = {
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}


def in_litgpt(model: Tiny, tensors: Tensors, fused: str, *modules: str) -> Tensors:
    """Factors under litgpt's names; those of queries, keys and values one below the other."""
    out: Tensors = {}

    def pair(own: str, *names: str) -> None:
        for x in "AB":
            found = [tensors[f"{PREFIX}{n}.lora_{x}.weight"] for n in names]
            out[f"{own}.lora_{x}"] = torch.cat(found)

    for i in range(model.layers):
        trained = [f"model.layers.{i}.self_attn.{n}" for n in QKV if n in modules]
        if trained:
            pair(f"transformer.h.{i}.attn.{fused}", *trained)
        for own, name in OTHERS.items():
            if name.rpartition(".")[2] in modules:
                pair(f"transformer.h.{i}.{own}", f"model.layers.{i}.{name}")
    if "lm_head" in modules:
        pair("lm_head", "lm_head")
    return out


def hyperparameters(*modules: str, **changes: str) -> str:
    """hyperparameters.yaml as jsonargparse saves it, with what else a run says."""
    said = {
        "checkpoint_dir": "checkpoints/meta-llama/base",
        "out_dir": "out/finetune/lora",
        "precision": "bf16-true",
        "quantize": "null",
        "devices": "1",
        "lora_r": str(RANK),
        "lora_alpha": str(ALPHA),
        "lora_dropout": "0.05",
        "lora_query": str("q_proj" in modules).lower(),
        "lora_key": str("k_proj" in modules).lower(),
        "lora_value": str("v_proj" in modules).lower(),
        "lora_projection": str("o_proj" in modules).lower(),
        "lora_mlp": str("up_proj" in modules).lower(),
        "lora_head": str("lm_head" in modules).lower(),
    } | changes
    lines = [f"{key}: {value}".rstrip() for key, value in said.items() if value is not ...]
    return "\n".join(lines) + REST


REST = """
data:
  class_path: litgpt.data.Alpaca2k
  init_args:
    mask_prompt: false
    prompt_style: "Below is

      lora_r: 99

      - a task"
    splits:
    - 0.9
    - 0.1
train:
  lr_warmup_steps: 10
  max_norm: null
names:
- lora_key: true
- other
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 0.0002, betas: [0.9, 0.95]}
logger_name: csv
seed: 1337
"""


def model_config(model: Tiny, **changes: str) -> str:
    """model_config.yaml, as litgpt keeps it beside every checkpoint."""
    said = {
        "bias": "false",
        "head_size": str(model.head_dim),
        "hf_config": "\n  name: base\n  org: meta-llama",
        "mlp_class_name": "LLaMAMLP",
        "n_embd": str(model.dim),
        "n_head": str(model.heads),
        "n_layer": str(model.layers),
        "n_query_groups": str(model.kv_heads),
        "norm_eps": "1.0e-05",
        "rope_adjustments": "null",
        "rope_interleave": "false",
        "rotary_percentage": "1.0",
    } | changes
    lines = [f"{key}: {value}" for key, value in said.items() if value is not ...]
    return "\n".join(lines) + "\n"


def write(
    folder: Path,
    tensors: Tensors,
    *modules: str,
    model: Tiny = MODEL,
    hyper: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    torch.save({"model": tensors}, folder / "lit_model.pth.lora")
    (folder / SETTINGS).write_text(hyperparameters(*modules, **(hyper or {})))
    (folder / MODEL_FILE).write_text(model_config(model, **(config or {})))
    return folder


def plain(folder: Path, *modules: str, fused: str = SPLIT, **more: Any) -> Path:
    modules = modules or ("q_proj", "v_proj")
    tensors = in_litgpt(MODEL, factors(MODEL, *modules), fused, *modules)
    return write(folder, tensors, *modules, **more)


# --- what must come out ---------------------------------------------------------------------------

TRAINED = [
    ("q_proj", "v_proj"),
    ("q_proj",),
    ("k_proj",),
    ("k_proj", "v_proj"),
    ("o_proj", "lm_head"),
    ("gate_proj", "up_proj", "down_proj"),
    ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"),
]


@pytest.mark.parametrize("fused", [SPLIT, GROUPED])
@pytest.mark.parametrize("modules", TRAINED, ids="+".join)
def test_merged(fused: str, modules: tuple[str, ...], tmp_path: Path) -> None:
    """Where one of q, k and v is left out, the grouped matrix of old has factors that are not."""
    adapter = plain(tmp_path / "adapter", *modules, fused=fused)
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, factors(MODEL, *modules), SCALE)) == []


@pytest.mark.parametrize("files", [1, 2])
def test_all_of_them_into_metas_files(files: int, tmp_path: Path) -> None:
    modules = (*LINEAR, "lm_head")
    adapter = plain(tmp_path / "adapter", *modules)
    found = merged(write_meta(MODEL, tmp_path / "base", files), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, factors(MODEL, *modules), SCALE)) == []


def grouped_sums(model: Tiny, tensors: Tensors) -> Tensors:
    """What litgpt before 0.5.5 adds where q, k and v are all trained.

    The products of the three pairs, one below the other, are added to a matrix in which the heads
    stand as in `places`.
    """
    out = {n: t.double() for n, t in model.truth.items()}
    places = []
    for group in range(model.kv_heads):
        each = model.heads // model.kv_heads
        places += [("q_proj", group * each + i) for i in range(each)]
        places += [("k_proj", group), ("v_proj", group)]
    for i in range(model.layers):
        attention = f"model.layers.{i}.self_attn"
        products = [
            tensors[f"{PREFIX}{attention}.{n}.lora_B.weight"].double()
            @ tensors[f"{PREFIX}{attention}.{n}.lora_A.weight"].double()
            for n in QKV
        ]
        for (name, head), change in zip(
            places, torch.cat(products).split(model.head_dim), strict=True
        ):
            rows = slice(head * model.head_dim, (head + 1) * model.head_dim)
            out[f"{attention}.{name}.weight"][rows] += SCALE * change
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_all_three_in_the_grouped_matrix(kv_heads: int, layout: str, tmp_path: Path) -> None:
    model = finite(Tiny(kv_heads=kv_heads))
    tensors = factors(model, *QKV)
    adapter = write(tmp_path / "a", in_litgpt(model, tensors, GROUPED, *QKV), *QKV, model=model)
    base = {"hf": write_hf, "meta": lambda m, f: write_meta(m, f, 1)}[layout](model, tmp_path / "b")
    found = merged(base, adapter, tmp_path / "out")
    assert differ(found, grouped_sums(model, tensors)) == []
    # A control: queries, keys and values as they seem to stand there make another model, but for
    # a single group.
    assert bool(differ(found, sums(model, tensors, SCALE))) is (kv_heads > 1)


def test_the_order_of_the_fused_factors_is_seen(tmp_path: Path) -> None:
    tensors = factors(MODEL, "k_proj", "v_proj")
    swapped = {
        n.replace("k_proj", "x").replace("v_proj", "k_proj").replace("x", "v_proj"): t
        for n, t in tensors.items()
    }
    modules = ("k_proj", "v_proj")
    adapter = write(tmp_path / "a", in_litgpt(MODEL, swapped, SPLIT, *modules), *modules)
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    wrong = differ(found, sums(MODEL, tensors, SCALE))
    assert {n.split(".")[-2] for n in wrong} == {"k_proj", "v_proj"}


def test_reported(tmp_path: Path) -> None:
    base = write_hf(MODEL, tmp_path / "base")
    adapter = plain(tmp_path / "adapter", *QKV, fused=GROUPED)
    for path in (adapter, adapter / "lit_model.pth.lora"):
        done = call("merge-lora", base, path, tmp_path / "out", "--dry-run", "--json")
        (one,) = done.json["merge"]["adapters"]
        assert (one["format"], one["kind"], one["modules"]) == ("litgpt", "LoRA", 3 * MODEL.layers)
        assert one["scales"] == [SCALE]
        assert done.json["conflicts"] == []  # trained on a folder of the base's name


# --- what is refused ------------------------------------------------------------------------------


def refused(adapter: Path) -> Called:
    return refused_on(write_hf(MODEL, adapter.parent / "base"), adapter)


def test_without_the_files_beside_it(tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter")
    (adapter / SETTINGS).unlink()
    (adapter / MODEL_FILE).unlink()
    text = " ".join(refused(adapter).err.split())
    assert "no hyperparameters.yaml, which holds rank, alpha and which matrices" in text
    assert "no model_config.yaml, which holds the numbers of layers and heads" in text


SAID: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"lora_alpha": ...}, {}, "lora_alpha is missing"),
    ({"lora_r": ...}, {}, "lora_r is missing"),
    ({"lora_key": ...}, {}, "lora_key is missing"),
    ({"lora_alpha": "null"}, {}, "lora_alpha is missing"),
    ({"lora_alpha": "1e1"}, {}, "lora_alpha: expected a positive number"),
    ({"lora_r": "'2'"}, {}, "lora_r: expected a positive whole number, found '2'"),
    ({"lora_r": "3"}, {}, "expected [6, 48]: rank 3"),
    ({"lora_magic": "1"}, {}, "not known, so that merging may mean more: lora_magic"),
    ({"lora_key": "true"}, {}, "of queries, keys and values 3 with 72 rows"),
    ({"lora_head": "true"}, {}, "names and the file lacks: lm_head.lora_A, lm_head.lora_B"),
    ({"lora_query": "false", "lora_value": "false"}, {}, "that hyperparameters.yaml does not name"),
    ({"out_dir": "x\nlora_r: 2"}, {}, "line 7 holds a key for the second time: lora_r"),
    ({"out_dir": '"x'}, {}, "not valid YAML"),
    ({"out_dir": "x" * 1_000_001}, {}, "is too large for settings"),
    ({}, {"n_head": ...}, "n_head is missing"),
    ({}, {"n_head": "16"}, "with 108 rows"),
    ({}, {"n_head": "10002"}, "n_head 10,002: not a Llama's"),
    ({}, {"n_query_groups": "3"}, "n_query_groups 3 does not divide n_head 8"),
    ({}, {"head_size": "eight"}, "head_size: expected a positive whole number"),
    ({}, {"n_layer": "3"}, "transformer.h.2.attn.qkv.lora_A"),
    ({}, {"n_layer": "1"}, "that hyperparameters.yaml does not name: transformer.h.1.attn.qkv"),
    ({}, {"n_layer": "99999999999"}, "more than the adapter has tensors"),
    ({}, {"rope_interleave": "true"}, "rope_interleave: not a Llama's"),
]


@pytest.mark.parametrize(("hyper", "config", "message"), SAID, ids=[m for _, _, m in SAID])
def test_settings(
    hyper: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    adapter = plain(tmp_path / "adapter", hyper=hyper, config=config)
    assert message in " ".join(refused(adapter).err.split())


FUSED = "transformer.h.0.attn.qkv"
TENSORS: list[tuple[str, Callable[[Tensors], object], str]] = [
    ("A without B", lambda t: t.pop(f"{FUSED}.lora_B"), f"the file lacks: {FUSED}.lora_B"),
    ("B without A", lambda t: t.pop(f"{FUSED}.lora_A"), f"the file lacks: {FUSED}.lora_A"),
    (
        "lit-llama's names",
        lambda t: t.update({"transformer.h.0.attn.c_attn.lora_A": torch.ones(4, 48)}),
        "does not name: transformer.h.0.attn.c_attn.lora_A",
    ),
    (
        "both names at once",
        lambda t: t.update({"transformer.h.0.attn.attn.lora_A": torch.ones(4, 48)}),
        "transformer.h.0.attn.qkv.lora_A",
    ),
    (
        "a row more",
        lambda t: t.update({f"{FUSED}.lora_B": torch.ones(61, RANK)}),
        "lora_B: shape [61, 2], expected [60, 2]",
    ),
    (
        "a vector",
        lambda t: t.update({f"{FUSED}.lora_A": torch.ones(4 * 48)}),
        "lora_A: shape [192], expected [4, 192]",
    ),
    (
        "columns of another model",
        lambda t: t.update({f"{FUSED}.lora_A": torch.ones(4, 47)}),
        "factors for a weight of shape [48, 47], the base's is [48, 48]",
    ),
]


@pytest.mark.parametrize(
    ("change", "message"), [t[1:] for t in TENSORS], ids=[t[0] for t in TENSORS]
)
def test_tensors(change: Callable[[Tensors], object], message: str, tmp_path: Path) -> None:
    modules = ("q_proj", "v_proj")
    tensors = in_litgpt(MODEL, factors(MODEL, *modules), SPLIT, *modules)
    change(tensors)
    done = refused(write(tmp_path / "adapter", tensors, *modules))
    assert message in " ".join(done.err.split())


def test_heads_that_the_base_does_not_have(tmp_path: Path) -> None:
    """As many rows in all, shared out otherwise."""
    model = finite(Tiny(heads=6, kv_heads=2))
    config = {"n_head": "2", "n_query_groups": "2", "head_size": "10"}
    tensors = in_litgpt(model, factors(model, *QKV), SPLIT, *QKV)
    adapter = write(tmp_path / "adapter", tensors, *QKV, model=model, config=config)
    done = call("merge-lora", write_hf(model, tmp_path / "base"), adapter, tmp_path / "out")
    assert done.code == 3
    assert "factors for a weight of shape [20, 36], the base's is [36, 36]" in done.err
