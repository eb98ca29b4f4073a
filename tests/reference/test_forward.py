"""Our forward pass gives the logits that Meta's code and transformers gave; and one wrong constant
or tensor shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forward_kit import CPU, error, logits, prompt, seen
from goldens import BY_NAME, DEFECT, FILES, GOLDENS, TOLERANCE, AsHf, Golden, Measured
from random_llama import HF_ONLY, POSITIONS, TOKENS, VARIANTS, save_llama
from transformers_logits import logits as transformers_logits

import llamatools
from llamatools.errors import Unsupported
from llamatools.expr.nodes import Concat, Expr
from llamatools.reference.observe import Prompt
from llamatools.spec import ModelSpec, RopeScaling, llama3_scaling

EVERY = ("layers.0.", "layers.1.")


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_golden_logits(golden: Golden, files: int, measured: Measured) -> None:
    found = golden.error(logits(golden.folder(files), golden))
    measured(golden, found)
    assert found <= TOLERANCE


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_every_layout_gives_the_same_bits(golden: Golden, dtype: str, as_hf: AsHf) -> None:
    prompts = [prompt(golden), prompt(golden, slice(0, 5))]
    settings = replace(CPU, dtype=dtype)
    first, *others = (
        seen(folder, prompts, settings)
        for folder in (as_hf(golden.folder(1)), *(golden.folder(n) for n in FILES))
    )
    assert all(first.same(other) for other in others)


@pytest.mark.parametrize("dtype", ["fp64", "bf16", "fp16"])
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_other_types_are_as_far_off_as_they_are_coarse(golden: Golden, dtype: str) -> None:
    found = golden.error(logits(golden.folder(2), golden, dtype=dtype))
    bounds = {"fp64": (0.0, TOLERANCE), "bf16": (5e-3, 6e-2), "fp16": (5e-4, 8e-3)}
    low, high = bounds[dtype]
    assert low < found < high


# --- against transformers -------------------------------------------------------------------------

KNOWN = {**VARIANTS, **{k: HF_ONLY[k] for k in ("heads wider than dim", "linear")}}
KNOWN["llama3 with other constants"] = HF_ONLY["llama3 with other constants"]


@pytest.mark.parametrize("variant", KNOWN)
def test_logits_of_transformers(variant: str, tmp_path: Path) -> None:
    """Biases, wide heads, ties, eps, theta, and both scalings of rotary frequencies."""
    model = save_llama(tmp_path / "hf", **KNOWN[variant])
    asked = Prompt("gapped", tuple(TOKENS.tolist()), tuple(POSITIONS.tolist()))
    found = seen(tmp_path / "hf", [asked]).of(0)
    assert error(found, transformers_logits(model, TOKENS, POSITIONS)) <= TOLERANCE


@pytest.mark.parametrize("variant", ["biases", "linear", "factor 32"])
def test_variants_are_no_matter_of_tolerance(variant: str, tmp_path: Path) -> None:
    """Without what the variant adds, the logits are others."""
    model = save_llama(tmp_path / "hf", **KNOWN[variant])
    wanted = transformers_logits(model, TOKENS, POSITIONS)
    asked = Prompt("gapped", tuple(TOKENS.tolist()), tuple(POSITIONS.tolist()))
    with llamatools.open_checkpoint(tmp_path / "hf") as opened:
        values = {n: v for n, v in opened.values.items() if not n.endswith("bias")}
        less = replace(opened, values=values, spec=replace(opened.spec, rope_scaling=None))
        assert error(seen(less, [asked]).of(0), wanted) > DEFECT


@pytest.mark.parametrize("variant", ["dynamic", "yarn", "longrope"])
def test_scalings_that_we_do_not_know_are_refused(variant: str, tmp_path: Path) -> None:
    save_llama(tmp_path / "hf", **HF_ONLY[variant])
    with pytest.raises(Unsupported, match=variant):
        seen(tmp_path / "hf", [Prompt("short", (1, 2), (0, 1))])


# --- what is made wrong must show -----------------------------------------------------------------


def _spec(**changed: object) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama1-mha", _spec(norm_eps=1e-5)),
        ("llama3-gqa", _spec(norm_eps=1e-6)),
        ("llama3-gqa", _spec(rope_theta=1e4)),
        ("llama3-gqa", _spec(rope_theta=5.1e5)),
        ("llama31-scaled", _spec(rope_scaling=None)),
        ("llama31-scaled", _spec(rope_scaling=llama3_scaling(32))),
        ("llama31-scaled", _spec(rope_scaling=RopeScaling("linear", 8.0))),
        ("llama32-tied", _spec(rope_scaling=llama3_scaling(8))),
    ],
)
def test_a_wrong_constant_shows(name: str, change: Callable[[ModelSpec], ModelSpec]) -> None:
    golden = BY_NAME[name]
    with llamatools.open_checkpoint(golden.folder(1)) as opened:
        assert golden.error(logits(opened, golden)) <= TOLERANCE
        wrong = replace(opened, spec=change(opened.spec))
        assert golden.error(logits(wrong, golden)) > 50 * TOLERANCE


def _swap(a: str, b: str) -> Callable[[dict[str, Expr]], None]:
    def change(values: dict[str, Expr]) -> None:
        for layer in EVERY:
            one, two = layer + a, layer + b
            values[one], values[two] = values[two], values[one]

    return change


def _halves(name: str) -> Callable[[dict[str, Expr]], None]:
    """Rows of the second half first: with two key-value heads, the heads trade places."""

    def change(values: dict[str, Expr]) -> None:
        for layer in EVERY:
            whole = values[layer + name]
            assert isinstance(whole, Concat)  # of two files
            values[layer + name] = Concat(0, whole.parts[::-1])

    return change


@pytest.mark.parametrize(
    "change",
    [
        _swap("mlp.gate.weight", "mlp.up.weight"),
        _swap("attention.norm.weight", "mlp.norm.weight"),
        _swap("attention.k.weight", "attention.v.weight"),
        _halves("attention.v.weight"),
        _halves("mlp.gate.weight"),
    ],
    ids=["gate and up", "norms", "k and v", "kv heads", "rows of gate"],
)
def test_a_misplaced_tensor_shows(change: Callable[[dict[str, Expr]], None]) -> None:
    golden = BY_NAME["llama2-gqa"]
    with llamatools.open_checkpoint(golden.folder(2)) as opened:
        values = dict(opened.values)
        change(values)
        assert golden.error(logits(replace(opened, values=values), golden)) > DEFECT


def test_a_head_that_is_stored_is_used_even_where_it_should_be_the_embedding() -> None:
    """A tied model's head in Meta's files may be damaged while the embedding is not."""
    golden = BY_NAME["llama32-tied"]
    with llamatools.open_checkpoint(golden.folder(1)) as opened:
        assert opened.spec.tied
        values = dict(opened.values) | {"head.weight": opened.values["embedding.weight"]}
        same = replace(opened, values=values)
        assert torch.equal(logits(opened, golden), logits(same, golden))
        del values["head.weight"]
        assert torch.equal(logits(opened, golden), logits(replace(opened, values=values), golden))
    other = BY_NAME["llama3-gqa"]
    with llamatools.open_checkpoint(other.folder(1)) as opened:
        values = {n: v for n, v in opened.values.items() if n != "head.weight"}
        assert other.error(logits(replace(opened, values=values), other)) > DEFECT


def test_positions_turn_and_order_masks() -> None:
    """A gap changes what positions after it see, and nothing of those before."""
    golden = BY_NAME["llama31-scaled"]
    tokens = prompt(golden).tokens[:16]
    near = Prompt("near", tokens, tuple(range(16)))
    gapped = Prompt("gapped", tokens, (*range(8), *range(4000, 4008)))
    later = Prompt("later", tokens, tuple(range(100, 116)))
    a, b, c = (seen(golden.folder(1), [p]).of(0) for p in (near, gapped, later))
    assert error(b[:8], a[:8]) <= TOLERANCE
    assert error(b[8:], a[8:]) > DEFECT
    assert error(c, a) <= 5 * TOLERANCE  # only distances count; angles are rounded otherwise
