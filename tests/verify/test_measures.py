"""Sketches, KL from the top logits, gates, and the words for positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3
from judging import Make
from sharp import Sharp

from llamatools.golden.digests import digest, lse, take, top_ids
from llamatools.golden.model import OWN, Generator, Golden, Noise
from llamatools.golden.sketch import COLUMNS, mean_square, sketch
from llamatools.reference.observe import Prompt
from llamatools.verifying.gates import GATES, Gate, choose_gate, remarks
from llamatools.verifying.locate import describe
from llamatools.verifying.rows import against_digest, against_full
from llamatools.verifying.totals import total

RNG = np.random.default_rng(7)
SMALL = Sharp("small", layers=2, context=256, scaling=None)


def test_signs_are_those_of_the_documentation() -> None:
    """sign(i, j): bit j of the i-th little-endian word of BLAKE3's stream for the seed."""
    stream = blake3(b"llamatools sketch 1").digest(length=4 * 40_000)
    for i in (0, 1, 5000, 16_383, 16_384, 39_999):
        word = int.from_bytes(stream[4 * i : 4 * i + 4], "little")
        row = np.zeros((1, 40_000))
        row[0, i] = 3.0
        assert sketch(row)[0].tolist() == [-3.0 if word >> j & 1 else 3.0 for j in range(COLUMNS)]


def test_sketches_are_linear_and_tell_the_mean_square() -> None:
    a, b = RNG.standard_normal((400, 700)), RNG.standard_normal((400, 700))
    difference = sketch(a) - sketch(b)
    assert np.allclose(difference, sketch(a - b))
    found = mean_square(difference, 700)
    true = np.square(a - b).mean(axis=1)
    assert found.mean() == pytest.approx(true.mean(), rel=0.05)
    assert (found / true).std() == pytest.approx(np.sqrt(2 / COLUMNS), rel=0.2)


def test_sketches_of_rows_do_not_depend_on_each_other() -> None:
    rows = RNG.standard_normal((5, 20_000))
    assert np.allclose(sketch(rows)[2], sketch(rows[2:3])[0], rtol=0, atol=1e-9)


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """By the definition."""
    a, b = (np.exp(x - lse(x)[:, None]) for x in (p, q))
    return (a * np.log(a / b)).sum(axis=1)


def test_full_rows_are_compared_by_the_definition() -> None:
    golden = 3 * RNG.standard_normal((20, 300))
    found = golden + 0.3 * RNG.standard_normal((20, 300))
    rows = against_full(found, golden)
    assert np.allclose(rows.kl, _kl(golden, found))
    assert np.allclose(rows.square, np.square(found - golden).mean(axis=1))
    assert rows.top1.tolist() == (found.argmax(1) == golden.argmax(1)).tolist()
    assert not rows.outside.any()
    totals = total([rows], float(golden.std()))
    flat = found.ravel() @ golden.ravel() / np.linalg.norm(found) / np.linalg.norm(golden)
    assert totals.cosine == pytest.approx(flat)
    assert totals.rms == pytest.approx(np.sqrt(np.square(found - golden).mean()) / golden.std())
    assert totals.p95_kl == sorted(rows.kl)[18]


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("noise", [1e-5, 1e-2, 0.3])
def test_kl_from_the_top_logits_is_close(sharpness: float, noise: float) -> None:
    """Flat distributions have most of their mass outside the top 64; sharp ones nearly none."""
    golden = sharpness * RNG.standard_normal((50, 6000))
    found = golden + noise * RNG.standard_normal((50, 6000))
    rows = against_digest(found, digest(golden))
    assert rows.kl.mean() == pytest.approx(_kl(golden, found).mean(), rel=0.25)
    assert (rows.outside.mean() > 0.7) == (sharpness == 1.0)


def test_a_shift_of_all_logits_is_no_kl() -> None:
    golden = RNG.standard_normal((9, 5000))
    rows = against_digest(golden + 5.0, digest(golden))
    assert rows.kl.max() < 1e-9 and rows.square == pytest.approx(np.full(9, 25.0))


def test_kl_with_all_logits_on_top_is_exact() -> None:
    golden = RNG.standard_normal((9, 40))
    found = golden + RNG.standard_normal((9, 40))
    assert np.allclose(against_digest(found, digest(golden)).kl, _kl(golden, found))


def test_the_same_logits_are_the_same() -> None:
    golden = RNG.standard_normal((9, 5000)).astype(np.float32).astype(np.float64)
    stored = digest(golden)
    rounded = replace(stored, sketch=stored.sketch.astype(np.float32).astype(np.float64))
    rows = against_digest(golden, take(rounded, 0, 9))
    assert not rows.kl.any() and not rows.square.any() and rows.top1.all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_no_numbers(value: float) -> None:
    golden = RNG.standard_normal((4, 100))
    found = golden.copy()
    found[2, 50] = value
    for rows in (against_full(found, golden), against_digest(found, digest(golden))):
        assert rows.finite.tolist() == [True, True, False, True]
        assert rows.kl[2] == np.inf and not rows.top1[2] and not rows.kl[[0, 1, 3]].any()
        totals = total([rows], 1.0)
        assert totals.rms is None and totals.mean_kl is None and not totals.finite


def test_top_ids_are_sorted_and_ties_go_by_id() -> None:
    rows = np.array([[1.0, 3.0, 3.0, 2.0, 0.0]])
    assert top_ids(rows, 3).tolist() == [[1, 2, 3]]
    assert top_ids(rows, 9).tolist() == [[1, 2, 3, 0, 4]]


# --- gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("golden", "run", "before", "now", "layers", "gate"),
    [
        ("float32", "float32", "BF16", "BF16", 4, "fp32"),
        ("float32", "float32", "BF16", "BF16", 8, "fp32"),
        ("float32", "float32", None, "BF16", 4, "fp32"),
        ("float32", "float32", "BF16", "F32", 4, "fp32"),
        ("float32", "float32", "BF16", "BF16", 32, "fp32-deep"),
        ("float64", "float32", "F32", "F32", 4, "fp32-fp64"),
        ("float32", "float64", "F32", "F32", 40, "fp32-deep"),
        ("float32", "bfloat16", "BF16", "BF16", 4, "bf16"),
        ("float32", "bfloat16", "BF16", "BF16", 5, "bf16-deep"),
        ("bfloat16", "float32", "BF16", "BF16", 80, "bf16-deep"),
        ("float32", "float16", "BF16", "BF16", 4, "fp16"),
        ("float32", "float16", "BF16", "BF16", 80, "fp16-deep"),
        ("float32", "float32", "F32", "BF16", 4, "cast"),
        ("float32", "float32", "F16", "BF16", 4, "cast"),
        ("float32", "float32", "F32", "BF16", 32, "cast-deep"),
        ("float32", "float32", "F32", "F16", 4, "cast-fp16"),
        ("float32", "float32", "F32", "F16", 32, "cast-fp16-deep"),
        ("float32", "float32", "BF16", "F16", 4, "fp32"),
        ("float32", "float32", "BF16", "F16", 32, "fp32-deep"),
        ("float32", "float16", "F32", "BF16", 4, "cast"),
        ("float32", "bfloat16", "F32", "BF16", 4, "bf16"),
        ("bfloat16", "bfloat16", "F32", "F16", 4, "bf16"),
    ],
)
@pytest.mark.parametrize("generator", [OWN, "transformers"])
def test_gates_are_chosen_by_what_is_compared(
    generator: str,
    golden: str,
    run: str,
    before: str | None,
    now: str,
    layers: int,
    gate: str,
    make: Make,
) -> None:
    held = _golden(make, golden, before, generator)
    assert choose_gate(held, run, now, layers).name == gate


def _golden(make: Make, dtype: str, weights: str | None, generator: str) -> Golden:
    made = make(SMALL).golden
    source = replace(made.source, weights=weights)
    return replace(made, dtype=dtype, source=source, generator=Generator(generator, {}))


def test_only_our_own_angles_are_known_to_be_of_fp64(make: Make) -> None:
    for layers, others in ((4, "fp32-fp64"), (32, "fp32-deep")):
        ours = _golden(make, "float64", "F32", OWN)
        assert choose_gate(ours, "float64", "F32", layers).name == "fp64"
        theirs = choose_gate(
            _golden(make, "float64", "F32", "transformers"), "float64", "F32", layers
        )
        assert theirs.name == others and "angles" in theirs.why


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_same_kernels_give_the_same_bits(dtype: str, make: Make) -> None:
    def chosen(before: str | None, now: str, layers: int, rounded: str | None = None) -> str:
        held = replace(_golden(make, dtype, before, OWN), noise=Noise(1.0, 1.0, 1.0, "float64"))
        return choose_gate(held, dtype, now, layers, rounded, same_kernels=True).name

    assert chosen("BF16", "BF16", 32) == "same" == chosen("BF16", "F32", 32)
    assert chosen("F32", "BF16", 32) != "same" != chosen("BF16", "BF16", 32, "merged")
    assert chosen("BF16", "F16", 32) != "same", "subnormals"
    other = {"float32": "float64"}.get(dtype, "float32")
    held = _golden(make, dtype, "BF16", OWN)
    assert choose_gate(held, other, "BF16", 4, same_kernels=True).name != "same"


def test_no_limit_of_deeper_models_is_narrower() -> None:
    for name, gate in GATES.items():
        deep = GATES.get(f"{name}-deep", gate)
        assert all(getattr(deep, k) >= getattr(gate, k) for k in ("rms", "mean_kl", "p95_kl"))


def test_noise_widens_a_fine_gate_up_to_twice(make: Make) -> None:
    made = make(SMALL).golden
    fp32 = GATES["fp32"]

    def chosen(*noise: float) -> Gate:
        return choose_gate(replace(made, noise=Noise(*noise, "float64")), "float32", "BF16", 4)

    gate = chosen(2e-5, 1e-9, 1e-6)
    assert (gate.rms, gate.mean_kl, gate.p95_kl) == pytest.approx((3e-5, fp32.mean_kl, 1.5e-6))
    assert "noise" in gate.why and remarks(gate, made) == []
    for more in ((2.8e-5, 0, 0), (0, 1.4e-7, 0), (0, 0, 1e300), (float("inf"),) * 3):
        noise = Noise(*more, "float64")
        gate = chosen(*more)
        assert replace(gate, why="") == fp32
        assert any("widens no limit" in r for r in remarks(gate, replace(made, noise=noise)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_noise_widens_no_gate_that_hides_defects(dtype: str, make: Make) -> None:
    held = replace(make(SMALL).golden, dtype=dtype)
    plain = choose_gate(held, dtype, "BF16", 12)
    for noise in (plain.rms / 2, plain.rms, 1e9):
        noisy = replace(held, noise=Noise(noise, 0, 0, "float32"))
        assert choose_gate(noisy, dtype, "BF16", 12) == plain
        told = " ".join(remarks(plain, noisy))
        assert "hide small defects" in told
        assert ("widens no limit" in told) == (noise > plain.rms / 1.5)
    assert "not measured" in " ".join(remarks(plain, held))


# --- positions ------------------------------------------------------------------------------------

PROMPTS = (
    Prompt("near", tuple(range(64)), tuple(range(64))),
    Prompt("gap", tuple(range(64)), (*range(32), *range(4096, 4128))),
)
AT = np.concatenate([np.array(p.positions) for p in PROMPTS])


@pytest.mark.parametrize(
    ("errors", "pattern"),
    [
        (np.ones(128), "all"),
        ((AT > 0) * 1.0, "not-first"),
        (np.minimum(AT / 20, 1.0), "grows"),
        (np.minimum(AT / 2000, 1.0), "far"),
        ((AT == 5) * 1.0, "not-first"),
        ((AT % 2) * 1.0 + (AT == 0), "all"),
        ((AT < 3) * 1.0, "some"),
    ],
)
def test_positions_in_words(errors: np.ndarray, pattern: str) -> None:
    found = describe(errors, PROMPTS)
    if pattern == "not-first":
        assert found.pattern in ("not-first", "grows")
    else:
        assert found.pattern == pattern


def test_tokens_are_told_from_positions() -> None:
    errors = np.array([float(t == 63) for p in PROMPTS for t in p.tokens])
    assert describe(errors, PROMPTS, by_token=True).text == "tokens 63, wherever they stand"
