"""mlx-lm's adapters: factors the other way round, a scale of their own, or whole weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.calls import Called, call, edit_json
from support.lora import LINEAR, PREFIX, RANK, factors, sums
from support.merged import differ, merged
from support.merged import refused as refused_on
from support.tiny import Tensors, Tiny, finite
from support.tiny_files import write_hf, write_meta

MODEL = finite(Tiny(layers=3))
TIED = finite(Tiny(layers=3, tied=True))
SCALE = 3.1
LAST = ("model.layers.1.", "model.layers.2.")


def in_mlx(tensors: Tensors) -> Tensors:
    """Factors of linear layers as mlx-lm keeps them: both transposed."""
    out = {}
    for name, t in tensors.items():
        own = name.removeprefix(PREFIX).removesuffix(".weight")
        if own.endswith((".lora_A", ".lora_B")):
            own, t = own[:-1] + own[-1].lower(), t.T
        out[own] = t.contiguous()
    return out


def last(tensors: Tensors) -> Tensors:
    """What there is in the last two layers."""
    return {n: t for n, t in tensors.items() if n.removeprefix(PREFIX).startswith(LAST)}


def config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json, which holds every argument of the training."""
    base = {
        "adapter_path": "adapters",
        "batch_size": 4,
        "clear_cache_threshold": 0,
        "config": "lora.yaml",
        "data": "mlx-community/WikiSQL",
        "fine_tune_type": "lora",
        "grad_accumulation_steps": 1,
        "grad_checkpoint": False,
        "iters": 1000,
        "learning_rate": 1e-05,
        "lora_parameters": {"rank": RANK, "dropout": 0.05, "scale": SCALE},
        "lr_schedule": None,
        "mask_prompt": False,
        "max_seq_length": 2048,
        "model": "mlx-community/base",
        "num_layers": 2,
        "optimizer": "adam",
        "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}},
        "project_name": None,
        "report_to": None,
        "resume_adapter_file": None,
        "save_every": 100,
        "seed": 0,
        "steps_per_eval": 200,
        "steps_per_report": 10,
        "test": False,
        "test_batches": 500,
        "train": True,
        "trust_remote_code": False,
        "val_batches": 25,
    }
    return {k: v for k, v in (base | changes).items() if v is not ...}


def parameters(**changes: Any) -> dict[str, Any]:
    """A change of lora_parameters, for `config`."""
    base = {"rank": RANK, "dropout": 0.05, "scale": SCALE} | changes
    return {"lora_parameters": {k: v for k, v in base.items() if v is not ...}}


def write(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    return folder


def plain(folder: Path, **changes: Any) -> Path:
    return write(folder, in_mlx(last(factors(MODEL, *LINEAR))), **changes)


def stretched(summed: Tensors, lengths: Tensors) -> Tensors:
    """Every row brought to its length."""
    out = dict(summed)
    for name, m in lengths.items():
        weight = name.removesuffix(".m") + ".weight"
        out[weight] = m.double()[:, None] * out[weight] / out[weight].norm(dim=1, keepdim=True)
    return out


def magnitudes(tensors: Tensors) -> Tensors:
    """A length for every row of every weight with factors in mlx-lm's form."""
    generator = torch.Generator().manual_seed(3)
    sizes = {
        name[:-1].removesuffix("lora_") + "m": len(t) if "embed_tokens" in name else t.shape[1]
        for name, t in tensors.items()
        if name.endswith("lora_a" if "embed_tokens" in name else "lora_b")
    }
    return {name: torch.rand(rows, generator=generator) + 0.5 for name, rows in sizes.items()}


# --- what must come out ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hf", "meta-1", "meta-2"])
@pytest.mark.parametrize("file", ["adapters.safetensors", "0000100_adapters.safetensors"])
def test_merged(layout: str, file: str, tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter")
    if file != "adapters.safetensors":
        (adapter / "adapters.safetensors").rename(adapter / file)
    base = tmp_path / "base"
    if layout == "hf":
        write_hf(MODEL, base)
    else:
        write_meta(MODEL, base, int(layout[-1]))
    given = adapter if file == "adapters.safetensors" else adapter / file
    found = merged(base, given, tmp_path / "out")
    assert differ(found, sums(MODEL, last(factors(MODEL, *LINEAR)), SCALE)) == []


def test_files_as_mlx_writes_them(tmp_path: Path) -> None:
    """mx.save_safetensors always has "__metadata__", and null for it where it was given none."""
    adapter = plain(tmp_path / "adapter")
    file = adapter / "adapters.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": None} | json.loads(data[8 : 8 + length])).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, last(factors(MODEL, *LINEAR)), SCALE)) == []


def test_dora(tmp_path: Path) -> None:
    tensors = last(factors(MODEL, *LINEAR))
    lengths = magnitudes(in_mlx(tensors))
    adapter = write(tmp_path / "adapter", in_mlx(tensors) | lengths, fine_tune_type="dora")
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    assert differ(found, stretched(sums(MODEL, tensors, SCALE), lengths)) == []


def vocabulary(model: Tiny) -> Tensors:
    """Factors of the embedding: its rows are those of lora_a."""
    generator = torch.Generator().manual_seed(4)
    return {
        "model.embed_tokens.lora_a": torch.randn(model.vocab, RANK, generator=generator),
        "model.embed_tokens.lora_b": torch.randn(RANK, model.dim, generator=generator),
    }


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("model", [MODEL, TIED], ids=["untied", "tied"])
def test_embeddings(model: Tiny, dora: bool, tmp_path: Path) -> None:
    """In mlx a tied head is the embedding as it is trained, and so they stay together."""
    tensors = vocabulary(model)
    lengths = magnitudes(tensors) if dora else {}
    more = parameters(keys=["model.embed_tokens"])
    kind = "dora" if dora else "lora"
    adapter = write(tmp_path / "adapter", tensors | lengths, fine_tune_type=kind, **more)
    found = merged(write_hf(model, tmp_path / "base"), adapter, tmp_path / "out")
    wanted = {n: t.double() for n, t in model.truth.items()}
    a, b = (t.double() for t in tensors.values())
    wanted["model.embed_tokens.weight"] += SCALE * a @ b
    assert differ(found, stretched(wanted, lengths)) == []
    assert ("lm_head.weight" in found) is (model is MODEL)


def test_a_head_and_what_is_before_it(tmp_path: Path) -> None:
    tensors = factors(MODEL, "lm_head", "q_proj")
    more = parameters(keys=["self_attn.q_proj", "lm_head", "not.there"])
    adapter = write(tmp_path / "adapter", in_mlx(tensors), num_layers=-1, **more)
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, tensors, SCALE)) == []


@pytest.mark.parametrize("layout", ["hf", "meta"])
@pytest.mark.parametrize("given", [None, {"rank": 8, "dropout": 0.0, "scale": 10.0}])
def test_full_fine_tunes(layout: str, given: dict[str, Any] | None, tmp_path: Path) -> None:
    """Whole layers in place of the base's; lora_parameters may stand there, for nothing."""
    tuned = finite(Tiny(layers=3, attention_bias=True, dtype=torch.float32))
    base = finite(Tiny(layers=3, attention_bias=True))
    weights = {n: t + 1 for n, t in tuned.truth.items() if n.startswith(LAST)}
    adapter = write(tmp_path / "a", weights, fine_tune_type="full", lora_parameters=given)
    folder = tmp_path / "base"
    _ = write_hf(base, folder) if layout == "hf" else write_meta(base, folder, 2)
    found = merged(folder, adapter, tmp_path / "out")
    wanted = {n: t.float() for n, t in base.truth.items()} | weights
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], t) for n, t in wanted.items())
    done = call("merge-lora", folder, adapter, tmp_path / "o", "--dry-run", "--json")
    (one,) = done.json["merge"]["adapters"]
    assert (one["format"], one["kind"], one["scales"]) == ("mlx-lm", "full fine-tune", [])


OLD = {"fine_tune_type": ..., "num_layers": ..., "lora_layers": 2}
ALPHAS: list[tuple[str, dict[str, Any], float]] = [
    ("no alpha, before 0.19", OLD | {"use_dora": False}, SCALE),
    ("up to 0.12", OLD | parameters(alpha=16), SCALE * 8),
    ("without effect", OLD | {"use_dora": False} | parameters(alpha=RANK), SCALE),
    ("0.19 to 0.22", parameters(alpha=16.0), SCALE),
    ("rounded nowhere", parameters(scale=0.1), 0.1),
]


@pytest.mark.parametrize(("changes", "scale"), [a[1:] for a in ALPHAS], ids=[a[0] for a in ALPHAS])
def test_what_alpha_meant(changes: dict[str, Any], scale: float, tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter", **changes)
    base = write_hf(MODEL, tmp_path / "base")
    found = merged(base, adapter, tmp_path / "out")
    assert differ(found, sums(MODEL, last(factors(MODEL, *LINEAR)), scale)) == []
    done = call("merge-lora", base, adapter, tmp_path / "o", "--dry-run", "--json")
    assert done.json["merge"]["adapters"][0]["scales"] == [scale]
    assert done.json["conflicts"] == []  # mlx-community/base is the base's name


@pytest.mark.parametrize("lower", ["a", "b"])
def test_factors_the_wrong_way_round_are_seen(lower: str, tmp_path: Path) -> None:
    """A control: o_proj is square, so that shapes alone do not tell."""
    tensors = last(factors(MODEL, "o_proj", rank=MODEL.dim))
    turned = {n: t.T.contiguous() if n.endswith(lower) else t for n, t in in_mlx(tensors).items()}
    adapter = write(tmp_path / "adapter", turned, **parameters(rank=MODEL.dim))
    found = merged(write_hf(MODEL, tmp_path / "base"), adapter, tmp_path / "out")
    wrong = differ(found, sums(MODEL, tensors, SCALE))
    assert {n.split(".")[-2] for n in wrong} == {"o_proj"}


# --- what is refused ------------------------------------------------------------------------------


def refused(adapter: Path) -> Called:
    return refused_on(write_hf(MODEL, adapter.parent / "base"), adapter)


def test_without_its_config(tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter")
    (adapter / "adapter_config.json").unlink()
    text = " ".join(refused(adapter).err.split())
    assert "no adapter_config.json: the scale of the factors is in no other file" in text
    assert '"scale": SCALE' in text


def test_the_file_of_old(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapters.npz").write_bytes(b"PK\3\4")
    text = " ".join(refused(adapter).err.split())
    assert "adapters.npz, as mlx-lm wrote it until 0.5" in text
    assert "mx.save_safetensors" in text


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"lora_parameters": ...}, "lora_parameters is missing"),
    ({"lora_parameters": []}, "lora_parameters: expected an object"),
    (parameters(scale=...), "lora_parameters: scale is missing"),
    (parameters(scale=..., alpha=16), "lora_parameters: scale is missing"),
    (parameters(scale="20"), "scale: expected a positive number"),
    (parameters(rank=...), "lora_parameters: rank is missing"),
    (parameters(rank=4), "rank 2, but"),
    (parameters(use_rslora=True), "lora_parameters: not known, so that merging may mean more"),
    (parameters(keys="q_proj"), "keys: expected a list of strings"),
    ({"fine_tune_type": "qlora"}, "fine_tune_type: expected lora, dora, full, found qlora"),
    ({"train_type": "dora"}, "not known, so that merging may mean more: train_type"),
    ({"num_layers": "2"}, "num_layers: expected a whole number, found 2"),
    ({"num_layers": 1}, "holds 2 layers, 1 to 2, but"),
    ({"num_layers": 3}, "holds 2 layers, 1 to 2, but"),
    ({"num_layers": -1}, "holds 2 layers, 1 to 2, but"),
    ({"fine_tune_type": "dora"}, "lacks 14 tensors: model.layers.1.mlp.down_proj.m"),
    ({"fine_tune_type": "full"}, "tensors that fine_tune_type full does not have"),
    (
        OLD | {"use_dora": False} | parameters(alpha=16),
        "set scale to 24.800000000000001 if mlx-lm 0.14.1 or before trained",
    ),
    ({"num_layers": ...} | parameters(alpha=16), "nothing here tells which wrote it"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=[m for _, m in CONFIGS])
def test_configs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter", **changes)
    assert message in " ".join(refused(adapter).err.split())


def test_every_problem_of_a_config_at_once(tmp_path: Path) -> None:
    adapter = plain(tmp_path / "a", num_layers="2", new=1, **parameters(rank=0, scale=-1, odd=1))
    text = " ".join(refused(adapter).err.split())
    for part in ("num_layers: expected", "more: new", "rank: expected", "scale: exp", "more: odd"):
        assert part in text


Q = "model.layers.1.self_attn.q_proj"
TENSORS: list[tuple[str, Callable[[Tensors], object], str]] = [
    ("A without B", lambda t: t.pop(f"{Q}.lora_b"), f"lacks 1 tensor: {Q}.lora_b"),
    ("B without A", lambda t: t.pop(f"{Q}.lora_a"), f"lacks 1 tensor: {Q}.lora_a"),
    (
        "a module that another layer has",
        lambda t: [t.pop(f"{Q}.lora_{x}") for x in "ab"],
        f"lacks 2 tensors: {Q}.lora_a, {Q}.lora_b",
    ),
    (
        "a length beside factors without",
        lambda t: t.update({f"{Q}.m": torch.ones(MODEL.dim)}),
        f"tensors that fine_tune_type lora does not have: {Q}.m",
    ),
    (
        "a weight",
        lambda t: t.update({f"{Q}.linear.weight": torch.ones(48, 48)}),
        f"does not have: {Q}.linear.weight",
    ),
    (
        "PEFT's names",
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(2, 48)}),
        f"does not have: {Q}.lora_A.weight",
    ),
    (
        "a layer beyond",
        lambda t: t.update({n.replace("s.1.", "s.3."): t[n] + 1 for n in [*t] if "s.1." in n}),
        "holds 3 layers, 1 to 3, but",
    ),
    (
        "a module of other models",
        lambda t: t.update({f"model.score.lora_{x}": torch.ones(2, 2) for x in "ab"}),
        "the base has no such modules: model.score",
    ),
    (
        "experts",
        lambda t: t.update({f"{Q}.lora_{x}": torch.ones(4, 48, 2) for x in "ab"}),
        "expected a matrix, found shape [2, 48, 4]",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [t[1:] for t in TENSORS], ids=[t[0] for t in TENSORS]
)
def test_tensors(change: Callable[[Tensors], object], message: str, tmp_path: Path) -> None:
    tensors = in_mlx(last(factors(MODEL, *LINEAR)))
    change(tensors)
    done = refused(write(tmp_path / "adapter", tensors))
    assert message in " ".join(done.err.split())


def test_keys_of_which_nothing_is_there(tmp_path: Path) -> None:
    tensors = in_mlx(last(factors(MODEL, "q_proj")))
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    text = " ".join(
        refused(write(tmp_path / "adapter", tensors, **parameters(keys=keys))).err.split()
    )
    assert "lacks 4 tensors: model.layers.1.self_attn.v_proj.lora_a" in text


def test_quantised_weights_of_a_full_fine_tune(tmp_path: Path) -> None:
    """They are the quantised base's own; factors of such a base are merged as any are."""
    weights = {
        f"{Q}.weight": torch.ones(48, 6, dtype=torch.int32).view(torch.uint32),
        f"{Q}.scales": torch.ones(48, 1),
        f"{Q}.biases": torch.ones(48, 1),
    }
    adapter = write(tmp_path / "adapter", weights, fine_tune_type="full", num_layers=1)
    assert "tensors of types that are not merged" in refused(adapter).err


def test_a_config_of_pefts_stays_pefts(tmp_path: Path) -> None:
    adapter = plain(tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", peft_type="LORA")
    assert "no weights of the adapter: expected adapter_model.safetensors" in refused(adapter).err
