"""Our forward pass in fp64 against another in fp64: what is left is rounding, not a formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fp64_llama
import pytest
import torch
from forward_kit import error, prompt, seen
from forward_kit import logits as ours
from goldens import BY_NAME, GOLDENS, TOLERANCE, AsHf, Golden
from random_llama import HF_ONLY, POSITIONS, TOKENS, VARIANTS, save_llama

import llamatools
from llamatools.reference.observe import Prompt
from llamatools.reference.settings import Settings

EXACT = 1e-12
FP64 = Settings(device="cpu", dtype="fp64")


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_golden_models(golden: Golden, as_hf: AsHf) -> None:
    model = fp64_llama.load(as_hf(golden.folder(1)))
    wanted = fp64_llama.logits(model, golden.saved["tokens"], golden.saved["positions"])
    assert error(ours(golden.folder(4), golden, dtype="fp64"), wanted) <= EXACT
    assert golden.error(wanted) <= TOLERANCE  # the other one is a Llama, too


@pytest.mark.parametrize("variant", ["biases", "linear", "heads wider than dim", "mqa", "tied"])
def test_variants(variant: str, tmp_path: Path) -> None:
    save_llama(tmp_path / "hf", **(VARIANTS | HF_ONLY)[variant])
    wanted = fp64_llama.logits(fp64_llama.load(tmp_path / "hf"), TOKENS, POSITIONS)
    asked = Prompt(variant, tuple(TOKENS.tolist()), tuple(POSITIONS.tolist()))
    assert error(seen(tmp_path / "hf", [asked], FP64).of(0), wanted) <= EXACT


def test_the_smallest_wrong_constant_shows(as_hf: AsHf) -> None:
    """The bound is far below what a difference in any formula makes."""
    golden = BY_NAME["llama3-gqa"]
    right = ours(golden.folder(1), golden, dtype="fp64")
    with llamatools.open_checkpoint(golden.folder(1)) as opened:
        for change in ({"norm_eps": 1.0001e-5}, {"rope_theta": 500000.1}):
            spec = replace(opened.spec, **change)  # type: ignore[arg-type]
            wrong = ours(replace(opened, spec=spec), golden, dtype="fp64")
            assert error(wrong, right) > 100 * EXACT


def test_states_are_fp64_from_the_first_to_the_last() -> None:
    golden = BY_NAME["llama31-scaled"]
    found = seen(golden.folder(1), [prompt(golden)], FP64)
    assert {x.dtype for x in [*found.states, *found.parts]} == {torch.float64}
