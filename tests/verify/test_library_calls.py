"""`llamatools.verify` and its like: one call each."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.calls import call, leftovers

import llamatools
from llamatools.errors import BadInput, OutputExists, UsageError

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL, LOGITS = GOLDEN / "llama3-gqa" / "mp2", GOLDEN / "llama3-gqa" / "golden.safetensors"
CPU = llamatools.Settings(device="cpu", threads=1)


def test_a_model_and_its_golden() -> None:
    outcome = llamatools.verify(MODEL, LOGITS, settings=CPU)
    assert outcome.holds and outcome.verdict is not None
    assert outcome.verdict.gate.name == "fp32" and str(outcome.runs[0]["device"]).startswith("cpu")
    with llamatools.open_checkpoint(MODEL) as opened:
        again = llamatools.verify(opened, llamatools.open_golden(LOGITS), settings=CPU)
    assert again.verdict == outcome.verdict


def test_another_models_golden() -> None:
    other = GOLDEN / "llama3-gqa-lora" / "golden.safetensors"
    outcome = llamatools.verify(MODEL, other, settings=CPU)
    assert not outcome.holds and outcome.verdict is not None
    assert outcome.verdict.place is not None
    lax = llamatools.Wishes(limits={"rms": 100.0, "mean_kl": 100.0, "p95_kl": 100.0})
    assert llamatools.verify(MODEL, other, settings=CPU, wishes=lax).holds


def test_the_type_of_the_run_is_the_settings() -> None:
    settings = llamatools.Settings(device="cpu", threads=1, dtype="bf16")
    outcome = llamatools.verify(MODEL, LOGITS, settings=settings)
    assert outcome.holds and outcome.verdict is not None
    assert outcome.verdict.gate.name == "bf16" and outcome.runs[0]["dtype"] == "bf16"
    strict = llamatools.Wishes(gate="fp32")
    assert not llamatools.verify(MODEL, LOGITS, settings=settings, wishes=strict).holds


def test_a_golden_is_made_as_by_the_command(tmp_path: Path) -> None:
    made = llamatools.create_golden(MODEL, tmp_path / "a", settings=CPU)
    words = ("golden", "create", MODEL, "-o", tmp_path / "b", "--device", "cpu", "--threads", 1)
    assert call(*words).code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert made.source.fingerprint == llamatools.fingerprint(MODEL).digest
    exact = llamatools.Wishes(gate="exact")
    other = GOLDEN / "llama3-gqa" / "mp4"
    assert llamatools.verify(other, tmp_path / "a", settings=CPU, wishes=exact).holds
    assert not llamatools.verify(other, LOGITS, settings=CPU, wishes=exact).holds


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"name": "mine", "ids": [1, 2, 3]}\n')
    made = llamatools.create_golden(MODEL, tmp_path / "g", prompts=tmp_path / "p", settings=CPU)
    assert [(p.prompt.name, p.prompt.tokens) for p in made.prompts] == [("mine", (1, 2, 3))]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        llamatools.verify(MODEL, tmp_path / "none", settings=CPU)
    with pytest.raises(UsageError, match="expected one of exact"):
        llamatools.Wishes(gate="lax")
    (tmp_path / "g").write_bytes(b"mine")
    with pytest.raises(OutputExists):
        llamatools.create_golden(MODEL, tmp_path / "g", settings=CPU)
    assert (tmp_path / "g").read_bytes() == b"mine" and leftovers(tmp_path / "g") == ["g"]
    llamatools.create_golden(MODEL, tmp_path / "g", settings=CPU, force=True)
    assert llamatools.verify(MODEL, tmp_path / "g", settings=CPU).holds
