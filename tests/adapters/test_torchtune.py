"""torchtune's adapters: its names, and rows of queries and keys in Meta's order.

Files are made from factors in Hugging Face's terms, by what torchtune does to a checkpoint as it
loads it; what must come out is worked out from the factors as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, edit_json, tree
from support.lora import LINEAR, PREFIX, RANK, factors, sums
from support.merged import differ, merged, refused
from support.tiny import Tensors, Tiny, finite, in_pairs
from support.tiny_files import read_hf, write_hf, write_meta

from llamatools.containers.detect import open_container
from llamatools.expr.context import PlainContext
from llamatools.expr.held import Held
from llamatools.expr.nodes import Read, ToHalves

MODEL = finite(Tiny())
ALPHA = 5
SCALE = ALPHA / RANK
EVERYTHING = (*LINEAR, "lm_head")

NAMES = {
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}
ROLES = {"lora_A.weight": "lora_a.weight", "lora_B.weight": "lora_b.weight", "m": "magnitude"}


def in_torchtune(model: Tiny, tensors: Tensors, turned: tuple[str, ...] = ("q", "k")) -> Tensors:
    """Factors under torchtune's names; all but lora_A are ordered as the weight's rows are."""
    out = {}
    for name, t in tensors.items():
        match = re.fullmatch(
            r"(?:model\.layers\.(\d+)\.)?(.+?)\.(lora_.\.weight|m)", name[len(PREFIX) :]
        )
        assert match is not None
        layer, module, role = match.groups()
        heads = {"self_attn.q_proj": model.heads, "self_attn.k_proj": model.kv_heads}.get(module)
        if heads and role != "lora_A.weight" and module[10] in turned:
            t = in_pairs(t, heads)
        own = "output" if layer is None else f"layers.{layer}.{NAMES[module]}"
        out[f"{own}.{ROLES[role]}"] = t.contiguous()
    return out


def config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json as torchtune's HF checkpointer writes it."""
    base = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj",
                           "up_proj", "lm_head"],
        "peft_type": "LORA",
    }  # fmt: skip
    return {k: v for k, v in (base | changes).items() if v is not ...}


def write(
    folder: Path, tensors: Tensors, *, file: str = "adapter_model.pt", **changes: Any
) -> Path:
    folder.mkdir(parents=True)
    torch.save(tensors, folder / file)
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    return folder


def plain(folder: Path, **changes: Any) -> Path:
    return write(folder, in_torchtune(MODEL, factors(MODEL, *EVERYTHING)), **changes)


def bases(folder: Path, layout: str, model: Tiny = MODEL) -> Path:
    if layout == "hf":
        return write_hf(model, folder / "base")
    return write_meta(model, folder / "base", int(layout[-1]))


LAYOUTS = ["hf", "meta-1", "meta-2"]


def magnitudes(model: Tiny, tensors: Tensors) -> Tensors:
    """A length for every row of every weight with factors, in Hugging Face's order."""
    generator = torch.Generator().manual_seed(3)
    return {
        name.replace("lora_B.weight", "m"): torch.rand(len(t), generator=generator) + 0.5
        for name, t in tensors.items()
        if "lora_B" in name
    }


def stretched(model: Tiny, tensors: Tensors, lengths: Tensors) -> Tensors:
    """DoRA by the paper: every row of the sum brought to its length."""
    out = sums(model, tensors, SCALE)
    for name, m in lengths.items():
        weight = name.removeprefix(PREFIX).removesuffix("m") + "weight"
        out[weight] = m.double()[:, None] * out[weight] / out[weight].norm(dim=1, keepdim=True)
    return out


# --- what must come out ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file", ["adapter_model.pt", "adapter_0.pt"])
def test_merged(layout: str, file: str, tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter", file=file)
    found = merged(bases(tmp_path, layout), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, factors(MODEL, *EVERYTHING), SCALE)) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dora(layout: str, tmp_path: Path) -> None:
    tensors = factors(MODEL, *EVERYTHING)
    lengths = magnitudes(MODEL, tensors)
    adapter = write(tmp_path / "adapter", in_torchtune(MODEL, tensors | lengths))
    found = merged(bases(tmp_path, layout), adapter, tmp_path / "out")
    assert differ(found, stretched(MODEL, tensors, lengths)) == []
    edit_json(adapter / "adapter_config.json", use_dora=True)  # as PEFT wants it said
    said = merged(tmp_path / "base", adapter, tmp_path / "said")
    assert all(torch.equal(said[n], t) for n, t in found.items())


def test_biased_bases_keep_their_biases(tmp_path: Path) -> None:
    model = finite(Tiny(attention_bias=True))
    tensors = factors(model, "q_proj", "k_proj")
    adapter = write(
        tmp_path / "a", in_torchtune(model, tensors), target_modules=["q_proj", "k_proj"]
    )
    found = merged(bases(tmp_path, "meta-1", model), adapter, tmp_path / "out")
    assert differ(found, sums(model, tensors, SCALE)) == []


@pytest.mark.parametrize("turned", [(), ("q",), ("k",)])
@pytest.mark.parametrize("dora", [False, True])
def test_rows_in_the_wrong_order_are_seen(
    turned: tuple[str, ...], dora: bool, tmp_path: Path
) -> None:
    """A control of the tests above: they fail for whatever is not turned, and for nothing else."""
    tensors = factors(MODEL, *EVERYTHING)
    lengths = magnitudes(MODEL, tensors) if dora else {}
    adapter = write(tmp_path / "adapter", in_torchtune(MODEL, tensors | lengths, turned))
    found = merged(bases(tmp_path, "hf"), adapter, tmp_path / "out")
    wrong = differ(found, stretched(MODEL, tensors, lengths))
    left = {"q", "k"} - set(turned)
    assert {name.split(".")[-2][0] for name in wrong} == left
    assert all("self_attn" in name for name in wrong)


def test_heads_that_are_no_multiple_of_a_tile(tmp_path: Path) -> None:
    """Tiles of 256 rows, heads of 66; in whatever blocks, by whatever number of workers."""
    model = finite(Tiny(heads=8, kv_heads=4, head_dim=66, layers=1, ffn=64))
    tensors = factors(model, "q_proj", "k_proj")
    lengths = magnitudes(model, tensors)
    adapter = write(
        tmp_path / "adapter",
        in_torchtune(model, tensors | lengths),
        target_modules=["q_proj", "k_proj"],
    )
    base = bases(tmp_path, "hf", model)
    trees = []
    for i, words in enumerate((("--jobs", "1"), ("--jobs", "3"), ("--max-memory", "18MB"))):
        found = merged(base, adapter, tmp_path / str(i), *words)
        assert differ(found, stretched(model, tensors, lengths)) == []
        trees.append(tree(tmp_path / str(i)))
    assert trees[0] == trees[1] == trees[2]


def test_held_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    t = torch.arange(48 * 3, dtype=torch.float32).view(48, 3)
    save_file({"t": t}, tmp_path / "t.safetensors")
    turned = ToHalves(Read(open_container(tmp_path / "t.safetensors").tensors["t"]), 2)
    held = Held(turned)
    ctx = PlainContext(10_000)
    whole = np.empty((48, 3), np.uint32)
    turned.fill(whole, 0, ctx)
    for start, stop in ((0, 48), (5, 31), (47, 48)):
        rows = np.empty((stop - start, 3), np.uint32)
        held.fill(rows, start, ctx)
        assert np.array_equal(rows, whole[start:stop])
    assert (held.granule, turned.granule) == (1, 24)


def test_weighted_beside_another(tmp_path: Path) -> None:
    tensors = factors(MODEL, *EVERYTHING)
    adapter = plain(tmp_path / "a")
    other = write(
        tmp_path / "b",
        in_torchtune(MODEL, {n: t * 2 for n, t in factors(MODEL, "k_proj").items()}),
        target_modules=["k_proj"],
    )
    base, out = bases(tmp_path, "hf"), tmp_path / "out"
    words = ("--weights", "0.5,2", "--to", "hf", "--dtype", "fp32")
    assert call("merge-lora", base, adapter, other, out, *words).code == 0
    wanted = sums(MODEL, tensors, SCALE * 0.5)
    more = sums(MODEL, factors(MODEL, "k_proj"), SCALE * 8)
    for name, truth in MODEL.truth.items():
        wanted[name] = wanted[name] + more[name] - truth.double()
    assert differ(read_hf(out), wanted) == []


# --- which file, which names ----------------------------------------------------------------------


def test_torchtunes_own_names_of_targets(tmp_path: Path) -> None:
    """As a recipe has them; who writes the config by hand may take them from there."""
    names = ["q_proj", "k_proj", "v_proj", "output_proj", "w1", "w2", "w3", "output"]
    adapter = plain(tmp_path / "adapter", target_modules=names)
    found = merged(bases(tmp_path, "meta-1"), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, factors(MODEL, *EVERYTHING), SCALE)) == []
    done = call("merge-lora", tmp_path / "base", adapter, tmp_path / "again", "--json")
    assert not any("does not name" in n for n in done.json["notes"])


def test_its_own_file_comes_before_its_export(tmp_path: Path) -> None:
    """The export has magnitudes in Meta's order under PEFT's name, which only torchtune's tells."""
    adapter = plain(tmp_path / "adapter")
    export = {n: t * 0 for n, t in factors(MODEL, *EVERYTHING).items()}
    save_file(export, adapter / "adapter_model.safetensors")
    base = bases(tmp_path, "hf")
    found = merged(base, adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, factors(MODEL, *EVERYTHING), SCALE)) == []
    report = call("merge-lora", base, adapter, tmp_path / "o", "--dry-run", "--json").json["merge"]
    assert [(a["format"], a["kind"]) for a in report["adapters"]] == [("torchtune", "LoRA")]
    asked = merged(base, adapter / "adapter_model.safetensors", tmp_path / "asked")
    assert differ(asked, {n: t.double() for n, t in MODEL.truth.items()}) == []


def test_of_several_epochs_the_last_is_exported(tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter", file="adapter_0.pt")
    torch.save(in_torchtune(MODEL, factors(MODEL, *EVERYTHING)), adapter / "adapter_1.pt")
    base = bases(tmp_path, "hf")
    assert "several epochs" in refused(base, adapter).err
    wanted = sums(MODEL, factors(MODEL, *EVERYTHING), SCALE)
    given = merged(base, adapter / "adapter_0.pt", tmp_path / "given")
    assert differ(given, wanted) == []
    torch.save(factors(MODEL, *EVERYTHING), adapter / "adapter_model.bin")
    assert differ(merged(base, adapter, tmp_path / "exported"), wanted) == []


# --- what is refused ------------------------------------------------------------------------------


def test_without_its_config(tmp_path: Path) -> None:
    """As the checkpointers for Meta's and torchtune's own format leave it."""
    adapter = plain(tmp_path / "adapter")
    (adapter / "adapter_config.json").unlink()
    done = refused(bases(tmp_path, "meta-1"), adapter)
    text = " ".join(done.err.split())
    assert "no adapter_config.json: rank and alpha" in text
    assert '"lora_alpha": ALPHA' in text


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"lora_alpha": ...}, "lora_alpha is missing, which scales the factors"),
    ({"lora_alpha": None}, "lora_alpha is missing, which scales the factors"),
    ({"r": ...}, "r is missing"),
    ({"r": 4}, "rank 2, but"),
    ({"peft_type": ...}, "peft_type is missing"),
    ({"peft_type": "IA3"}, "peft_type IA3"),
    ({"use_rslora": True}, "says more than torchtune's adapters know"),
    ({"rank_pattern": {"q_proj": 2}}, "says more than torchtune's adapters know"),
    ({"a_new_method": 1}, "not known, so that merging may mean more: a_new_method"),
    ({"use_dora": True}, "has no magnitude vector"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=[m for _, m in CONFIGS])
def test_configs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter", **changes)
    assert message in " ".join(refused(bases(tmp_path, "hf"), adapter).err.split())


Q = "layers.0.attn.q_proj"
TENSORS: list[tuple[str, Callable[[Tensors], object], str]] = [
    ("A without B", lambda t: t.pop(f"{Q}.lora_b.weight"), "has lora_A and no lora_B"),
    ("B without A", lambda t: t.pop(f"{Q}.lora_a.weight"), "has lora_B and no lora_A"),
    (
        "a module less",
        lambda t: [t.pop(f"{Q}.lora_{x}.weight") for x in "ab"],
        "names 1 module of which the file holds nothing: model.layers.0.self_attn.q_proj",
    ),
    (
        "an unknown module",
        lambda t: t.update({"layers.0.attn.qkv.lora_a.weight": torch.ones(2, 2)}),
        "do not have: layers.0.attn.qkv.lora_a.weight",
    ),
    (
        "Hugging Face's names",
        lambda t: t.update({"layers.0.self_attn.q_proj.lora_a.weight": torch.ones(2, 2)}),
        "do not have: layers.0.self_attn.q_proj.lora_a.weight",
    ),
    (
        "a fusion layer",
        lambda t: t.update({"layers.0.fusion_layer.attn.q_proj.lora_a.weight": torch.ones(2, 2)}),
        "do not have: layers.0.fusion_layer",
    ),
    (
        "one magnitude alone",
        lambda t: t.update({f"{Q}.magnitude": torch.ones(MODEL.dim)}),
        "modules with factors and no magnitude, unlike others",
    ),
    (
        "rows that are no heads",
        lambda t: t.update({f"{Q}.lora_b.weight": torch.ones(MODEL.dim + 1, RANK)}),
        "factors for a weight of shape [49, 48], the base's is [48, 48]",
    ),
    (
        "NaN",
        lambda t: t[f"{Q}.lora_b.weight"].fill_(float("nan")),
        "hold NaN or infinity",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [t[1:] for t in TENSORS], ids=[t[0] for t in TENSORS]
)
def test_tensors(change: Callable[[Tensors], object], message: str, tmp_path: Path) -> None:
    tensors = in_torchtune(MODEL, factors(MODEL, *EVERYTHING))
    change(tensors)
    done = refused(bases(tmp_path, "hf"), write(tmp_path / "adapter", tensors))
    assert message in " ".join(done.err.split())
