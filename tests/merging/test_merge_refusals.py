"""What cannot be merged is refused, each with its own message, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calls import Called, call, edit_json
from support.lora import PREFIX, RANK, factors, plain, write_adapter
from support.tiny import Tensors, Tiny, finite
from support.tiny_files import write_hf, write_meta

MODEL = finite(Tiny())
Q = f"{PREFIX}model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(MODEL, tmp_path_factory.mktemp("base") / "tiny-base")


def refused(base: Path, adapter: Path, *more: object, code: int = 3) -> Called:
    out = adapter.parent / "out"
    done = call("merge-lora", base, adapter, out, *more)
    assert done.code == code, done.err
    assert not out.exists()
    assert not [p for p in adapter.parent.iterdir() if p.name.startswith(".")]
    assert "Traceback" not in done.err
    return done


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type IA3"),
    ({"peft_type": "ADALORA"}, "peft_type ADALORA"),
    ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
    ({"arrow_config": {"top_k": 2}}, "Arrow"),
    ({"megatron_config": {"tensor_model_parallel_size": 2}}, "Megatron"),
    ({"layer_replication": [[0, 1], [0, 2]]}, "repeated layers"),
    ({"use_qalora": True}, "QALoRA"),
    ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
    ({"target_parameters": ["mlp.experts"]}, "bare parameters"),
    ({"init_lora_weights": "pissa"}, "unconverted PiSSA"),
    ({"init_lora_weights": "pissa_niter_4"}, "unconverted PiSSA"),
    ({"init_lora_weights": "olora"}, "unconverted OLoRA"),
    ({"init_lora_weights": "corda"}, "unconverted CorDA"),
    ({"init_lora_weights": "loftq"}, "unconverted LoftQ"),
    ({"init_lora_weights": "lora_ga"}, "unconverted LoRA-GA"),
    ({"init_lora_weights": "tomorrows"}, "init_lora_weights tomorrows"),
    ({"r": 0}, "r: expected a positive whole number"),
    ({"r": True}, "r: expected a positive whole number"),
    ({"r": ...}, "r is missing"),
    ({"lora_alpha": "16"}, "lora_alpha: expected a positive number"),
    ({"bias": "some"}, "expected none, all or lora_only"),
    ({"rank_pattern": {"q_proj": 1.5}}, "expected a whole number"),
    ({"a_new_method": {"x": 1}}, "not known, so that merging may mean more: a_new_method"),
    ({"use_dora": True}, "no magnitude vector"),
    (
        {"layers_pattern": ["(layers|h)"], "layers_to_transform": [0]},
        "layers_pattern: a group in",
    ),
    ({"r": 4}, "rank 2, but"),
    ({"rank_pattern": {"layers.0.self_attn.q_proj": 3}}, "says 3 for this module"),
    ({"rank_pattern": {"(a+)+(?=b)": 3}}, "not a pattern that can be matched in bounded time"),
    ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "names 2 modules of which"),
    ({"target_modules": "all-linear"}, "names 10 modules of which"),
    ({"modules_to_save": ["lm_head"]}, "names 1 module of which"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=[m for _, m in CONFIGS])
def test_configs(base: Path, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    done = refused(base, plain(MODEL, tmp_path / "adapter", **changes))
    assert message in " ".join(done.err.split())


def _without(name: str) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        del t[name]

    return change


def _with(name: str, value: torch.Tensor) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[name] = value

    return change


def _element(value: float) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[f"{Q}.lora_B.weight"][3, 1] = value

    return change


TENSORS: list[tuple[str, Callable[[Tensors], None], str]] = [
    ("A without B", _without(f"{Q}.lora_B.weight"), "has lora_A and no lora_B"),
    ("B without A", _without(f"{Q}.lora_A.weight"), "has lora_B and no lora_A"),
    (
        "magnitude without use_dora",
        _with(f"{Q}.lora_magnitude_vector", torch.ones(MODEL.dim)),
        "does not say use_dora",
    ),
    ("NaN", _element(float("nan")), "hold NaN or infinity"),
    ("infinity", _element(float("-inf")), "hold NaN or infinity"),
    (
        "shape of B",
        _with(f"{Q}.lora_B.weight", torch.ones(MODEL.dim + 1, RANK)),
        "factors for a weight of shape [49, 48], the base's is [48, 48]",
    ),
    (
        "shape of A",
        _with(f"{Q}.lora_A.weight", torch.ones(RANK, 7)),
        "the base's is [48, 48]",
    ),
    ("rank of B", _with(f"{Q}.lora_B.weight", torch.ones(MODEL.dim, 3)), "no rank in common"),
    ("a shard of A", _with(f"{Q}.lora_A.weight", torch.ones(96)), "expected a matrix"),
    (
        "a layer too many",
        _with(f"{PREFIX}model.layers.2.self_attn.q_proj.lora_A.weight", torch.ones(RANK, 48)),
        "has lora_A and no lora_B",
    ),
    (
        "a classifier",
        _with(f"{PREFIX}score.modules_to_save.weight", torch.ones(2, 48)),
        "the base has no such modules: score",
    ),
    ("an unknown tensor", _with(f"{Q}.lora_E", torch.ones(RANK)), "not known"),
    (
        "a bias the base lacks",
        _with(f"{PREFIX}model.layers.0.self_attn.q_proj.base_layer.bias", torch.ones(48)),
        "the base has no bias there",
    ),
    (
        "integers",
        _with(f"{Q}.lora_B.weight", torch.ones(MODEL.dim, RANK, dtype=torch.int8)),
        "types that are not merged",
    ),
    (
        "two names in one file",
        _with(f"{Q}.lora_A.second.weight", torch.ones(RANK, 48)),
        "stored twice",
    ),
    (
        "a saved norm of another size",
        _with(f"{PREFIX}model.norm.weight", torch.ones(47)),
        "the base's is [48]",
    ),
    (
        "grown embedding, old head",
        _with(f"{PREFIX}model.embed_tokens.weight", torch.ones(44, 48)),
        "the embedding has 44 rows and the head 40",
    ),
]


@pytest.mark.parametrize(
    ("change", "message"), [t[1:] for t in TENSORS], ids=[t[0] for t in TENSORS]
)
def test_tensors(
    base: Path, change: Callable[[Tensors], None], message: str, tmp_path: Path
) -> None:
    tensors = factors(MODEL, "q_proj", "v_proj")
    change(tensors)
    done = refused(base, write_adapter(tmp_path / "adapter", tensors))
    assert message in " ".join(done.err.split())


def test_layers_beyond_the_model(base: Path, tmp_path: Path) -> None:
    deeper = finite(Tiny(layers=3))
    done = refused(base, plain(deeper, tmp_path / "adapter"))
    assert "no such modules: model.layers.2.self_attn.q_proj" in " ".join(done.err.split())


def test_several_adapters_in_one_file(base: Path, tmp_path: Path) -> None:
    tensors = {
        n.replace(".weight", f".{who}.weight"): t
        for who in ("default", "other")
        for n, t in factors(MODEL, "q_proj", "v_proj").items()
    }
    assert "several adapters" in refused(base, write_adapter(tmp_path / "a", tensors)).err


def test_tokens_beyond_the_vocabulary(base: Path, tmp_path: Path) -> None:
    tensors = factors(MODEL, "q_proj", "v_proj")
    tensors[f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.ones(2, 48)
    adapter = write_adapter(tmp_path / "adapter", tensors, trainable_token_indices=[3, 40])
    assert "tokens 40 are beyond the vocabulary of 40" in refused(base, adapter).err


def test_tokens_that_the_config_does_not_count(base: Path, tmp_path: Path) -> None:
    tensors = factors(MODEL, "q_proj", "v_proj")
    tensors[f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.ones(2, 48)
    adapter = write_adapter(tmp_path / "adapter", tensors, trainable_token_indices=[3, 4, 5])
    assert "names 3 tokens" in refused(base, adapter).err


def test_an_empty_adapter(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"x": torch.ones(1)})
    (adapter / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    assert "empty" in refused(base, adapter).err


def test_a_folder_that_is_no_adapter(base: Path, tmp_path: Path) -> None:
    done = refused(base, write_hf(MODEL, tmp_path / "model"))
    assert "not an adapter" in done.err


def test_an_adapter_without_weights(base: Path, tmp_path: Path) -> None:
    adapter = plain(MODEL, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    assert "no weights of the adapter" in refused(base, adapter).err


def test_a_quantised_base(tmp_path: Path) -> None:
    base = write_hf(MODEL, tmp_path / "base")
    edit_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "bitsandbytes" in refused(base, plain(MODEL, tmp_path / "adapter")).err


def test_all_problems_are_told_at_once(base: Path, tmp_path: Path) -> None:
    tensors = factors(MODEL, "q_proj", "v_proj")
    del tensors[f"{Q}.lora_A.weight"]
    del tensors[f"{PREFIX}model.layers.1.self_attn.v_proj.lora_B.weight"]
    done = refused(base, write_adapter(tmp_path / "adapter", tensors))
    assert "layers.0.self_attn.q_proj: has lora_B" in done.err
    assert "layers.1.self_attn.v_proj: has lora_A" in done.err


def test_the_same_adapter_is_not_merged_twice(base: Path, tmp_path: Path) -> None:
    adapter = plain(MODEL, tmp_path / "adapter")
    once, moved = tmp_path / "once", tmp_path / "moved"
    assert call("merge-lora", base, adapter, once).code == 0
    assert "merged already" in refused(once, adapter).err
    # What is converted afterwards remembers it.
    assert call("convert", once, moved, "--to", "meta").code == 0
    assert "merged already" in refused(moved, adapter).err
    assert call("merge-lora", moved, adapter, tmp_path / "twice", "--allow-again").code == 0
    assert "merged already" in call("merge-lora", base, adapter, adapter, tmp_path / "o").err


def test_nor_under_other_names(base: Path, tmp_path: Path) -> None:
    """Whatever its program calls the adapter, in a file of either kind."""
    call("merge-lora", base, plain(MODEL, tmp_path / "adapter"), tmp_path / "once")
    named = {
        n.replace(".weight", ".default.weight"): t
        for n, t in factors(MODEL, "q_proj", "v_proj").items()
    }
    again = write_adapter(tmp_path / "again", named)
    assert "again is merged already" in refused(tmp_path / "once", again).err


def test_another_adapter_on_top(base: Path, tmp_path: Path) -> None:
    first, second = plain(MODEL, tmp_path / "a"), plain(MODEL, tmp_path / "b", lora_alpha=6)
    assert call("merge-lora", base, first, tmp_path / "once").code == 0
    assert call("merge-lora", tmp_path / "once", second, tmp_path / "both").code == 0


@pytest.mark.parametrize("weights", ["0.5", "0.5,0.2,0.3", "0.5,x", "nan,1", ""])
def test_weights_that_make_no_sense(base: Path, weights: str, tmp_path: Path) -> None:
    a, b = plain(MODEL, tmp_path / "a"), plain(MODEL, tmp_path / "b", lora_alpha=6)
    done = call("merge-lora", base, a, b, tmp_path / "out", "--weights", weights)
    assert done.code == 2, done.err
    assert not (tmp_path / "out").exists()


def test_no_weighted_sum_with_another_vocabulary(base: Path, tmp_path: Path) -> None:
    tensors = factors(MODEL, "q_proj", "v_proj")
    for module in ("model.embed_tokens", "lm_head"):
        tensors[f"{PREFIX}{module}.weight"] = torch.ones(44, 48)
    adapter = write_adapter(tmp_path / "adapter", tensors)
    assert "no weighted sum" in refused(base, adapter, "--weights", "0.5").err


def test_values_beyond_the_type_are_not_published(tmp_path: Path) -> None:
    model = finite(Tiny(dtype=torch.float16))
    base = write_hf(model, tmp_path / "base")
    tensors = {n: t * 1e4 for n, t in factors(model, "q_proj", "v_proj").items()}
    adapter = write_adapter(tmp_path / "adapter", tensors)
    done = refused(base, adapter, code=1)
    assert "layers.0.attention.q.weight" in done.err
    assert call("merge-lora", base, adapter, tmp_path / "wide", "--dtype", "bf16").code == 0


def test_output_in_the_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = plain(MODEL, tmp_path / "adapter")
    assert call("merge-lora", base, adapter, adapter / "out").code == 2


@pytest.mark.parametrize("files", [1, 2])
def test_meta_bases_refuse_alike(files: int, tmp_path: Path) -> None:
    base = write_meta(MODEL, tmp_path / "base", files)
    tensors = factors(MODEL, "q_proj", "v_proj")
    tensors[f"{Q}.lora_B.weight"] = torch.ones(MODEL.dim + 1, RANK)
    done = refused(base, write_adapter(tmp_path / "adapter", tensors))
    assert "the base's is [48, 48]" in " ".join(done.err.split())


@pytest.mark.parametrize("shape", [(), (8, 8), (MODEL.dim, 2), (1, MODEL.dim - 1)], ids=str)
def test_magnitudes_of_another_shape(base: Path, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = factors(MODEL, "q_proj")
    lengths = {
        n.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(shape)
        for n in tensors
        if "lora_A" in n
    }
    adapter = write_adapter(
        tmp_path / "adapter", tensors | lengths, use_dora=True, target_modules=["q_proj"]
    )
    words = "magnitude vector of shape" if shape else "tensors without rows or elements"
    assert words in refused(base, adapter).err


@pytest.mark.parametrize("shape", [(0,), (0, 4), ()], ids=str)
def test_tensors_without_elements(base: Path, shape: tuple[int, ...], tmp_path: Path) -> None:
    """As training with parameters shared out over ranks leaves them."""
    tensors = factors(MODEL, "q_proj") | {f"{PREFIX}model.norm.weight": torch.ones(shape)}
    adapter = write_adapter(
        tmp_path / "adapter", tensors, target_modules=["q_proj"], modules_to_save=["norm"]
    )
    done = refused(base, adapter)
    assert "tensors without rows or elements" in done.err
    assert "saved from one rank of several" in done.err


@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_rows_that_a_tied_head_shares_are_stored_once(layout: str, tmp_path: Path) -> None:
    """The config names both modules; without the embedding's rows both are missed."""
    model = finite(Tiny(tied=True))
    base = (
        write_hf(model, tmp_path / "b") if layout == "hf" else write_meta(model, tmp_path / "b", 1)
    )
    rows = {
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, model.dim)
    }
    tokens = {"embed_tokens": [5, 2], "lm_head": [5, 2]}
    changes = {"target_modules": ["q_proj"], "trainable_token_indices": tokens}
    some = factors(model, "q_proj")
    whole = write_adapter(tmp_path / "whole", some | rows, **changes)
    assert call("merge-lora", base, whole, tmp_path / "merged").code == 0
    cut = write_adapter(tmp_path / "cut", some, **changes)
    assert "holds nothing: model.embed_tokens, lm_head" in refused(base, cut).err
