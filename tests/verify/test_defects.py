"""Everything that usually goes wrong with a checkpoint is caught, and located.

Defects are put into files and configs of sharp models; what is right comes from transformers. The
clean models hold in every type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import Make, judged, ours
from sharp import Change, Config, Sharp, Tensors, write
from support.tiny import in_pairs

from llamatools.checkpoint import open_checkpoint
from llamatools.golden.create import record
from llamatools.golden.prompts import default_prompts

LLAMA_31 = Sharp()
LLAMA_2 = Sharp("llama-2", kv_heads=8, theta=1e4, scaling=None, context=4096, eps=1e-5)
LLAMA_1 = Sharp("llama-1", kv_heads=8, theta=1e4, scaling=None, context=2048, eps=1e-6)
BIASED = Sharp("biased", bias=True, scaling=None, context=8192)
TIED = Sharp("tied", tied=True)
WIDE = Sharp("wide-heads", heads=4, head_dim=16, scaling=None, context=8192)
LARGE = Sharp("large-vocabulary", layers=2, vocab=5000, context=8192)
"""Its golden has digests of most logits."""
MODELS = (LLAMA_31, LLAMA_2, LLAMA_1, BIASED, TIED, WIDE, LARGE)


@dataclass(frozen=True)
class Defect:
    name: str
    change: Change
    point: str
    patterns: tuple[str, ...]
    cause: str
    """A key of the causes, among those that are named."""
    model: Sharp = LLAMA_31

    def __str__(self) -> str:
        return self.name


def _each(suffix: str, change: Callable[[torch.Tensor], torch.Tensor], *only: int) -> Change:
    """Change a tensor of every layer, or of some."""

    def apply(tensors: Tensors, config: Config) -> None:
        for i in only or range(config["num_hidden_layers"]):
            key = f"model.layers.{i}.{suffix}"
            tensors[key] = change(tensors[key])

    return apply


def _swap(a: str, b: str, *only: int) -> Change:
    def apply(tensors: Tensors, config: Config) -> None:
        for i in only or range(config["num_hidden_layers"]):
            x, y = f"model.layers.{i}.{a}", f"model.layers.{i}.{b}"
            tensors[x], tensors[y] = tensors[y], tensors[x]

    return apply


def _set(**changes: Any) -> Change:
    return lambda tensors, config: config.update(changes)


def _one(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def apply(tensors: Tensors, config: Config) -> None:
        tensors[key] = change(tensors[key])

    return apply


def _both(*changes: Change) -> Change:
    def apply(tensors: Tensors, config: Config) -> None:
        for change in changes:
            change(tensors, config)

    return apply


def _heads_reversed(t: torch.Tensor) -> torch.Tensor:
    return t.view(2, -1, t.shape[1]).flip(0).reshape(t.shape)


def _halves(axis: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda t: torch.cat(t.chunk(2, axis)[::-1], axis)


def _less_low_rank(t: torch.Tensor) -> torch.Tensor:
    """Without an update of rank 4 that is 5% of the matrix."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(t.shape[0], 4, generator=generator)
    b = torch.randn(4, t.shape[1], generator=generator)
    update = a @ b
    return (t.float() - 0.05 * update * t.float().norm() / update.norm()).bfloat16()


def _one_sign(t: torch.Tensor) -> torch.Tensor:
    """The sign of an element of middling size."""
    out = t.clone()
    flat = out.view(-1)
    at = int(flat.float().abs().argsort()[len(flat) // 2])
    flat[at] = -flat[at]
    return out


def _an_eighth(t: torch.Tensor) -> torch.Tensor:
    out = t.clone()
    out[: t.shape[0] // 8] = 0
    return out


def _last_row(t: torch.Tensor) -> torch.Tensor:
    out = t.clone()
    out[-1] = out[-1].flip(0)
    return out


def _reorder(order: tuple[int, ...]) -> Change:
    """Layers by their old numbers."""

    def apply(tensors: Tensors, config: Config) -> None:
        old = {k: tensors.pop(k) for k in list(tensors) if ".layers." in k}
        for new, i in enumerate(order):
            prefix = f"model.layers.{i}."
            for key, t in old.items():
                if key.startswith(prefix):
                    tensors[f"model.layers.{new}.{key.removeprefix(prefix)}"] = t.clone()
        config["num_hidden_layers"] = len(order)

    return apply


def _tie(tensors: Tensors, config: Config) -> None:
    del tensors["lm_head.weight"]
    config["tie_word_embeddings"] = True


def _no_biases(tensors: Tensors, config: Config) -> None:
    config.update(attention_bias=False, mlp_bias=False)
    for key in [k for k in tensors if k.endswith("bias")]:
        del tensors[key]


def _zero_bias(name: str) -> Change:
    return _each(f"{name}.bias", torch.zeros_like)


def _exchange(tensors: Tensors, config: Config) -> None:
    a, b = "model.embed_tokens.weight", "lm_head.weight"
    tensors[a], tensors[b] = tensors[b], tensors[a]


Q, K, V, O = (f"self_attn.{n}_proj.weight" for n in "qkvo")  # noqa: E741
GATE, UP, DOWN = (f"mlp.{n}_proj.weight" for n in ("gate", "up", "down"))
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_FAR = ("far",)
_ROTARY = ("not-first", "grows")
_ANY = ("all", "not-first", "grows", "some")

DEFECTS = (
    Defect("q unpermuted", _each(Q, lambda t: in_pairs(t, 8)), "layer 0 attention", _ROTARY,
           "permutation"),
    Defect("k unpermuted", _each(K, lambda t: in_pairs(t, 2)), "layer 0 attention", _ROTARY,
           "permutation"),
    Defect("q and k unpermuted", _both(_each(Q, lambda t: in_pairs(t, 8)),
           _each(K, lambda t: in_pairs(t, 8))), "layer 0 attention", _ROTARY, "permutation",
           LLAMA_2),
    Defect("k permuted by the count of query heads", _each(K, lambda t: in_pairs(t, 4)),
           "layer 0 attention", _ROTARY, "permutation", WIDE),
    Defect("q unpermuted in the last layer", _each(Q, lambda t: in_pairs(t, 8), 3),
           "layer 3 attention", _ROTARY, "permutation"),
    Defect("kv heads reversed", _both(_each(K, _heads_reversed), _each(V, _heads_reversed)),
           "layer 0 attention", ("all",), "v-heads"),
    Defect("k heads reversed", _each(K, _heads_reversed), "layer 0 attention", _ROTARY,
           "kv-heads"),
    Defect("k and v swapped", _swap(K, V), "layer 0 attention", ("all",), "v-heads"),
    Defect("q and k swapped", _swap(Q, K), "layer 0 attention", _ROTARY, "qk", LLAMA_2),
    Defect("theta", _set(rope_theta=10000.0), "layer 0 attention", _ROTARY, "theta"),
    Defect("theta of Code Llama", _set(rope_theta=1e6), "layer 0 attention", _ROTARY, "theta",
           LLAMA_2),
    Defect("scaling missing", _set(rope_scaling=None), "layer 0 attention", _FAR, "scaling"),
    Defect("factor 32 for 8", _set(rope_scaling=LLAMA_31.scaling | {"factor": 32.0}),
           "layer 0 attention", _FAR, "scaling"),
    Defect("eps 1e-6 for 1e-5", _set(rms_norm_eps=1e-6), "layer 0 attention", ("all",), "eps"),
    Defect("eps 1e-5 for 1e-6", _set(rms_norm_eps=1e-5), "layer 0 attention", ("all",), "eps",
           LLAMA_1),
    Defect("gate and up swapped", _swap(GATE, UP), "layer 0 mlp", ("all",), "gate-up"),
    Defect("gate and up swapped once", _swap(GATE, UP, 2), "layer 2 mlp", ("all",), "gate-up"),
    Defect("norms swapped", _swap("input_layernorm.weight", "post_attention_layernorm.weight"),
           "layer 0 attention", ("all",), "norms"),
    Defect("norms swapped once", _swap("input_layernorm.weight",
           "post_attention_layernorm.weight", 1), "layer 1 attention", ("all",), "norms"),
    Defect("last two layers swapped", _reorder((0, 1, 3, 2)), "layer 2 attention", ("all",),
           "layers"),
    Defect("a layer dropped", _reorder((0, 1, 3)), "layer 2 attention", ("all",), "layers"),
    Defect("a layer twice", _reorder((0, 1, 2, 2, 3)), "layer 3 attention", ("all",), "layers"),
    Defect("shards of o in another order", _each(O, _halves(1)), "layer 0 attention", ("all",),
           "shards"),
    Defect("shards of down in another order", _each(DOWN, _halves(1)), "layer 0 mlp", ("all",),
           "shards"),
    Defect("shards of gate in another order", _each(GATE, _halves(0), 1), "layer 1 mlp",
           ("all",), "shards"),
    Defect("shards of q in another order", _each(Q, _halves(0)), "layer 0 attention", _ROTARY,
           "shards"),
    Defect("columns of the embedding in another order", _one(EMBEDDING, _halves(1)),
           "embedding", ("all",), "shards", LLAMA_2),
    Defect("rows of the embedding in another order", _one(EMBEDDING, _halves(0)), "embedding",
           ("all",), "shards"),
    Defect("rows of the head in another order", _one(HEAD, _halves(0)), "head", ("all",),
           "shards"),
    Defect("vocabulary shifted", _both(_one(EMBEDDING, lambda t: t.roll(1, 0)),
           _one(HEAD, lambda t: t.roll(1, 0))), "embedding", ("all",), "vocabulary"),
    Defect("vocabulary of a tied model shifted", _one(EMBEDDING, lambda t: t.roll(1, 0)),
           "embedding", ("all",), "vocabulary", TIED),
    Defect("head shifted", _one(HEAD, lambda t: t.roll(-1, 0)), "head", ("all",), "vocabulary"),
    Defect("head of a large vocabulary shifted", _one(HEAD, lambda t: t.roll(1, 0)), "head",
           ("all",), "vocabulary", LARGE),
    Defect("eps with a large vocabulary", _set(rms_norm_eps=1e-6), "layer 0 attention", ("all",),
           "eps", LARGE),
    Defect("a sign in the head of a large vocabulary", _one(HEAD, _one_sign), "head", _ANY,
           "elements", LARGE),
    Defect("tied by mistake", _tie, "head", ("all",), "tied"),
    Defect("embedding and head exchanged", _exchange, "embedding", ("all",), "exchanged"),
    Defect("the last row of the embedding", _one(EMBEDDING, _last_row), "embedding",
           ("tokens",), "rows"),
    Defect("the last row of the head", _one(HEAD, _last_row), "head", _ANY, "elements"),
    Defect("LoRA on q lost", _each(Q, _less_low_rank, 1), "layer 1 attention", _ROTARY, "lora"),
    Defect("LoRA on v lost", _each(V, _less_low_rank), "layer 0 attention", ("all",), "lora"),
    Defect("LoRA on down lost", _each(DOWN, _less_low_rank, 3), "layer 3 mlp", ("all",), "lora"),
    Defect("LoRA on the head lost", _one(HEAD, _less_low_rank), "head", ("all",), "lora"),
    Defect("a sign in up", _each(UP, _one_sign, 1), "layer 1 mlp", _ANY, "elements"),
    Defect("a sign in v", _each(V, _one_sign, 2), "layer 2 attention", _ANY, "elements"),
    Defect("a sign in q", _each(Q, _one_sign, 3), "layer 3 attention", (*_ROTARY, "some"),
           "elements"),
    Defect("an eighth of o zeroed", _each(O, _an_eighth, 2), "layer 2 attention", ("all",),
           "part"),
    Defect("an eighth of up zeroed", _each(UP, _an_eighth, 0), "layer 0 mlp", ("all",), "part"),
    Defect("an eighth of k zeroed", _each(K, _an_eighth, 0), "layer 0 attention", _ROTARY,
           "part"),
    Defect("o transposed", _each(O, lambda t: t.T), "layer 0 attention", ("all",), "shards"),
    Defect("gains less one", _each("input_layernorm.weight", lambda t: t - 1, 2),
           "layer 2 attention", ("all",), "norms"),
    Defect("final norm without gains", _one(NORM, torch.ones_like), "norm", ("all",),
           "final-norm"),
    Defect("all biases dropped", _no_biases, "layer 0 attention", ("all",), "bias", BIASED),
    Defect("bias of v dropped", _zero_bias("self_attn.v_proj"), "layer 0 attention", ("all",),
           "bias", BIASED),
    Defect("bias of q dropped", _zero_bias("self_attn.q_proj"), "layer 0 attention", _ROTARY,
           "bias", BIASED),
    Defect("bias of down dropped", _zero_bias("mlp.down_proj"), "layer 0 mlp", ("all",), "bias",
           BIASED),
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp64"])
def test_clean_models_hold_in_every_type(model: Sharp, dtype: str, make: Make) -> None:
    made = make(model)
    report = judged(made.folder, made.golden, dtype)
    assert report["holds"], report["problems"]
    assert report["gate"]["name"] == ("fp32-fp64" if dtype == "fp64" else dtype)
    assert report["fault"] is None


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_defects_are_caught_and_located(defect: Defect, make: Make, tmp_path: Path) -> None:
    golden = make(defect.model).golden
    report = judged(write(defect.model, tmp_path / "wrong", defect.change), golden)
    assert not report["holds"]
    fault = report["fault"]
    assert fault["point"] == defect.point
    assert fault["pattern"] in defect.patterns, fault
    assert defect.cause in [c["key"] for c in fault["causes"]], fault


SMALLEST = [d for d in DEFECTS if d.cause in ("eps", "lora", "elements", "final-norm", "scaling")]


@pytest.mark.parametrize("defect", SMALLEST, ids=str)
def test_far_angles_of_fp64_hide_no_defect(defect: Defect, make: Make, tmp_path: Path) -> None:
    golden = make(defect.model).golden
    report = judged(write(defect.model, tmp_path / "wrong", defect.change), golden, "fp64")
    assert not report["holds"] and report["gate"]["name"] == "fp32-fp64"
    assert report["fault"]["point"] == defect.point


@pytest.mark.parametrize("defect", SMALLEST, ids=str)
def test_our_own_golden_in_bf16_shows_the_smallest(
    defect: Defect, make: Make, tmp_path: Path
) -> None:
    """By the same kernels; what other kernels make in bf16 would hide most of these."""
    with open_checkpoint(make(defect.model).folder) as checkpoint:
        golden, _ = record(checkpoint, default_prompts(checkpoint), ours("bf16"))
    report = judged(write(defect.model, tmp_path / "wrong", defect.change), golden, "bf16")
    assert not report["holds"] and report["gate"]["name"] == "same"
    assert report["fault"]["point"] == defect.point


SETTINGS = {"theta": "rope_theta", "eps 1e-6 for 1e-5": "norm_eps", "scaling missing": "rope_sc",
            "factor 32 for 8": "rope_scaling", "tied by mistake": "tied",
            "a layer dropped": "n_layers"}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_differs_is_said_and_comes_first(
    name: str, make: Make, tmp_path: Path
) -> None:
    (defect,) = (d for d in DEFECTS if d.name == name)
    report = judged(
        write(defect.model, tmp_path / "wrong", defect.change), make(defect.model).golden
    )
    assert report["differences"][0].startswith(SETTINGS[name])
    assert report["fault"]["causes"][0]["key"] == defect.cause


def test_a_shifted_head_is_recognised(make: Make, tmp_path: Path) -> None:
    folder = write(LLAMA_31, tmp_path / "wrong", _one(HEAD, lambda t: t.roll(-1, 0)))
    first = judged(folder, make(LLAMA_31).golden)["fault"]["causes"][0]
    assert "moved by +1" in first["text"]


def test_nan_is_found_where_it_first_is(make: Make, tmp_path: Path) -> None:
    def spoil(t: torch.Tensor) -> torch.Tensor:
        out = t.clone()
        out[0, 0] = float("nan")
        return out

    folder = write(LLAMA_31, tmp_path / "wrong", _each(UP, spoil, 2))
    report = judged(folder, make(LLAMA_31).golden)
    assert not report["holds"]
    assert report["fault"]["point"] == "layer 2 mlp"
    assert report["fault"]["causes"][0]["key"] == "nan"
    assert report["overall"]["rms"] is None


def test_without_hidden_states_logits_alone_tell(make: Make, tmp_path: Path) -> None:
    golden = make(LLAMA_31).golden
    bare = replace(
        golden,
        dim=None,
        points=(),
        prompts=tuple(replace(p, hidden=None) for p in golden.prompts),
    )
    assert judged(make(LLAMA_31).folder, bare)["holds"]
    for name, pattern in (("q unpermuted", _ROTARY), ("gate and up swapped", ("all",))):
        (defect,) = (d for d in DEFECTS if d.name == name)
        report = judged(write(LLAMA_31, tmp_path / name, defect.change), bare)
        assert not report["holds"]
        assert report["fault"]["point"] == "logits"
        assert report["fault"]["pattern"] in pattern
        assert report["fault"]["causes"]
