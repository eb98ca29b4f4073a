"""Mistakes in merging that are easily made must show in the comparisons with PEFT.

Each is made in the adapter's files: merged rightly, the changed files give what a wrong merge would
give of the untouched ones. Nothing inside of llamatools is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.adapters import (
    ATTENTION,
    BIASED,
    LINEAR,
    PLAIN,
    Kind,
    base,
    distance,
    exact,
    load_base,
    load_peft,
    logits,
    make,
    nearest,
    off,
    one_thread,
    read_adapter,
    rewrite,
    write_base,
)
from support.calls import call
from support.tiny import Tensors, Tiny, in_pairs
from support.tiny_files import read_hf, write_meta

SAME = 1e-6
"""What the comparisons allow, against a tensor's largest number."""
SHOWS = 1e-3
"""A thousand times as much, in weights and in logits."""

Change = Callable[[Tensors], Tensors]


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


# --- the mistakes ---------------------------------------------------------------------------------


def _heads(name: str) -> int:
    return PLAIN.heads if "q_proj" in name else PLAIN.kv_heads


def rows_in_pairs(part: str) -> Change:
    """Rows of q or k in Meta's order, in the tensors whose names end so."""

    def change(tensors: Tensors) -> Tensors:
        return {n: in_pairs(t, _heads(n)) if n.endswith(part) else t for n, t in tensors.items()}

    return change


def keys_by_the_count_of_queries(tensors: Tensors) -> Tensors:
    """Grouped heads permuted as if there were as many as queries have."""
    mine, heads = "k_proj.lora_B.weight", PLAIN.kv_heads * 2
    return {n: in_pairs(t, heads) if n.endswith(mine) else t for n, t in tensors.items()}


def scaled(part: str, factor: float) -> Change:
    def change(tensors: Tensors) -> Tensors:
        return {n: t * factor if n.endswith(part) else t for n, t in tensors.items()}

    return change


def without(part: str) -> Change:
    def change(tensors: Tensors) -> Tensors:
        return {n: t for n, t in tensors.items() if not n.endswith(part)}

    return change


def zeroed(part: str) -> Change:
    def change(tensors: Tensors) -> Tensors:
        return {n: t * 0 if n.endswith(part) else t for n, t in tensors.items()}

    return change


def transposed(tensors: Tensors) -> Tensors:
    """The product of each pair of factors turned over: B = A^T and A = B^T."""
    other = {"lora_A": "lora_B", "lora_B": "lora_A",
             "lora_embedding_A": "lora_embedding_B",
             "lora_embedding_B": "lora_embedding_A"}  # fmt: skip
    out = dict(tensors)
    for name, t in tensors.items():
        for mine, its in other.items():
            if f".{mine}" in name:
                out[name.replace(f".{mine}", f".{its}")] = t.T
    return out


def rolled(part: str) -> Change:
    """Rows one place further on, as with an offset wrong by one."""

    def change(tensors: Tensors) -> Tensors:
        return {n: t.roll(1, 0) if n.endswith(part) else t for n, t in tensors.items()}

    return change


def same(tensors: Tensors) -> Tensors:
    return tensors


@dataclass(frozen=True)
class Mistake:
    """An adapter, and the change of its files that makes the mistake; `settings` of its config."""

    adapter: dict[str, Any]
    change: Change = same
    settings: dict[str, Any] | None = None
    base: Tiny = PLAIN


_SQUARE = base(vocab=64)
_Q_K = {"target_modules": ["q_proj", "k_proj"]}
_DORA = {"target_modules": ATTENTION, "use_dora": True}
_DORA_EMBEDDING = {"target_modules": ["model.embed_tokens"], "use_dora": True}
_BD = {"use_bdlora": {"target_modules_bd_b": LINEAR, "nblocks": 2}}

MISTAKES: dict[str, Mistake] = {
    "rows of q not permuted": Mistake(_Q_K, rows_in_pairs("q_proj.lora_B.weight")),
    "rows of k not permuted": Mistake(_Q_K, rows_in_pairs("k_proj.lora_B.weight")),
    "rows of k permuted as those of q": Mistake(_Q_K, keys_by_the_count_of_queries),
    "rows of v permuted": Mistake(
        {"target_modules": ["v_proj"]}, rows_in_pairs("v_proj.lora_B.weight")
    ),
    "magnitudes of q not permuted": Mistake(_DORA, rows_in_pairs("q_proj.lora_magnitude_vector")),
    "magnitudes of k not permuted": Mistake(_DORA, rows_in_pairs("k_proj.lora_magnitude_vector")),
    "biases of q not permuted": Mistake(
        {**_Q_K, "bias": "all"}, rows_in_pairs("q_proj.base_layer.bias"), base=BIASED
    ),
    "added biases of k not permuted": Mistake(
        {**_Q_K, "lora_bias": True}, rows_in_pairs("k_proj.lora_B.bias"), base=BIASED
    ),
    "alpha ignored": Mistake(_Q_K, settings={"lora_alpha": 8}),
    "rank ignored": Mistake(_Q_K, settings={"lora_alpha": 16 * 8}),
    "rank of the config for one with a pattern": Mistake(
        {**_Q_K, "rank_pattern": {"q_proj": 4}}, scaled("q_proj.lora_B.weight", 4 / 8)
    ),
    "patterns of alpha ignored": Mistake(
        {**_Q_K, "alpha_pattern": {"q_proj": 3}}, settings={"alpha_pattern": {}}
    ),
    "the last pattern taken for the first": Mistake(
        {**_Q_K, "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 32}},
        settings={"alpha_pattern": {"q_proj": 32, "layers.0.self_attn.q_proj": 3}},
    ),
    "rsLoRA's scale taken as plain": Mistake(
        {**_Q_K, "use_rslora": True}, settings={"use_rslora": False}
    ),
    "plain scale taken as rsLoRA's": Mistake(_Q_K, settings={"use_rslora": True}),
    "products of square weights transposed": Mistake(
        {"target_modules": ["q_proj", "o_proj"]}, transposed
    ),
    "an embedding's product transposed": Mistake(
        {"target_modules": ["model.embed_tokens"]}, transposed, base=_SQUARE
    ),
    "DoRA merged without its magnitudes": Mistake(
        _DORA, without("_vector"), settings={"use_dora": False}
    ),
    "an embedding's magnitudes off by one": Mistake(_DORA_EMBEDDING, rolled("_vector")),
    "B of LoRA's bias unscaled": Mistake(
        {**_Q_K, "lora_bias": True}, scaled("lora_B.bias", 0.5), base=BIASED
    ),
    "a bias forgotten": Mistake(
        {**_Q_K, "lora_bias": True}, zeroed("k_proj.lora_B.bias"), base=BIASED
    ),
    "a norm forgotten": Mistake(
        {**_Q_K, "modules_to_save": ["model.norm"]},
        without("model.norm.weight"),
        settings={"modules_to_save": None},
    ),
    "trained rows off by one": Mistake(
        {**_Q_K, "trainable_token_indices": [190, 3]},
        settings={"trainable_token_indices": [189, 2]},
    ),
    "trained rows in the order of their numbers": Mistake(
        {**_Q_K, "trainable_token_indices": [190, 3]},
        settings={"trainable_token_indices": [3, 190]},
    ),
    "blocks of a block-diagonal factor in another order": Mistake(
        {"target_modules": ["q_proj"], **_BD},
        lambda ts: {n: t.roll(len(t) // 2, 0) if "lora_B" in n else t for n, t in ts.items()},
    ),
}


# --- they show ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mistake], tuple[Path, Path]]:
    """The HF base and the untouched adapter."""
    bases: dict[Tiny, Path] = {}

    def build(mistake: Mistake) -> tuple[Path, Path]:
        model = mistake.base
        if model not in bases:
            bases[model] = write_base(model, tmp_path_factory.mktemp("bases") / "base")
        out = tmp_path_factory.mktemp("adapter") / "adapter"
        return bases[model], make(Kind(mistake.adapter, model), bases[model], out)

    return build


def _merged(source: Path, adapter: Path, out: Path) -> Tensors:
    done = call("merge-lora", source, adapter, out, "--to", "hf")
    assert done.code == 0, done.err
    return read_hf(out)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_show(
    name: str, made: Callable[[Mistake], tuple[Path, Path]], tmp_path: Path
) -> None:
    """In the weights against PEFT's and the formulas', and in the logits; on a Meta base too."""
    mistake = MISTAKES[name]
    hf, adapter = made(mistake)
    model = load_peft(hf, adapter)
    unmerged = logits(model, mistake.base.vocab)
    by_peft, by_formula = model.merge_and_unload().state_dict(), exact(mistake.base.truth, adapter)

    tensors = read_adapter(adapter)
    right = rewrite(adapter, tmp_path / "right", tensors)
    wrong = rewrite(
        adapter, tmp_path / "wrong", mistake.change(tensors), **(mistake.settings or {})
    )
    meta = write_meta(mistake.base, tmp_path / "meta", 2)
    for i, source in enumerate((hf, meta)):
        good = _merged(source, right, tmp_path / f"good-{i}")
        bad = _merged(source, wrong, tmp_path / f"bad-{i}")
        for wanted in (by_peft, by_formula):
            assert distance(good, wanted) <= SAME
            assert distance(bad, wanted) > SHOWS
    found = logits(load_base(tmp_path / "bad-1"), mistake.base.vocab)
    assert off(found, unmerged) > SHOWS


def test_rounding_twice_shows() -> None:
    """`nearest` rounds once; by way of fp32, halves that were none go to the even neighbour."""
    # Just above the middle of two bf16 numbers, by less than fp32 can tell.
    exactly = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert nearest(exactly, torch.bfloat16) == 1 + 2**-7
    assert exactly.to(torch.float32).to(torch.bfloat16) == 1
