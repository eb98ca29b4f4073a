"""PEFT, running the base with the adapter beside it, gives what the merged model gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.calls import call
from support.tiny_files import write_hf, write_meta
from transformers import LlamaForCausalLM
from tuned_models import EMBEDDING, HEAD, LINEAR, Change, shift, small, together, tuned

TOKENS = torch.arange(1, 25)[None]
BIASES = {"attention_bias": True, "mlp_bias": True}
NORMS = shift("norm.weight")


def _load(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits
    return found


def _grow(tensors: dict[str, torch.Tensor]) -> None:
    for name in {EMBEDDING, HEAD} & tensors.keys():
        tensors[name] = torch.cat([tensors[name], tensors[name][:4] * 0.5])


CASES: list[tuple[str, dict[str, Any], Change, dict[str, Any], list[str]]] = [
    ("linear layers", {}, shift(LINEAR), {}, []),
    ("and all else", {}, together(shift(LINEAR), NORMS, shift(EMBEDDING, HEAD)), {}, []),
    ("in bf16", {}, shift(LINEAR, "norm.weight"), {}, ["--dtype", "bf16"]),
    ("some layers", {}, shift("0.self_attn.q_proj.weight", "1.mlp.up_proj.weight",
     "1.input_layernorm.weight"), {}, []),
    ("many layers", {"layers": 12}, shift("2.mlp.up_proj.weight", "1.self_attn.v_proj.weight",
     "0.input_layernorm.weight", "o_proj.weight", size=0.1), {}, []),
    ("ranks of their own", {}, shift(LINEAR), {}, ["--rank", "36"]),
    ("rank 1", {}, shift(LINEAR, EMBEDDING), {}, ["--rank", "1", "--modules",
     "embed_tokens,k_proj,down_proj"]),
    ("norms alone", {}, NORMS, {}, []),
    ("biases", BIASES, shift(LINEAR, ".bias"), {}, []),
    ("biases alone", BIASES, shift("0.self_attn.q_proj.bias"), {}, []),
    ("biases of attention", {"attention_bias": True}, shift(LINEAR, ".bias"), {}, []),
    ("factors of embedding and head", {}, shift(LINEAR, EMBEDDING, HEAD), {},
     ["--modules", "q_proj,embed_tokens,lm_head"]),
    ("tied", {"tied": True}, shift(LINEAR, EMBEDDING), {}, []),
    ("tied, with factors", {"tied": True}, shift(LINEAR, EMBEDDING), {},
     ["--modules", "q_proj,embed_tokens"]),
    ("no longer tied", {"tied": True},
     together(lambda t: t.update({HEAD: t[EMBEDDING] * 1.5}), shift(LINEAR)), {"tied": False}, []),
    ("another embedding, the old head", {"tied": True},
     together(lambda t: t.update({HEAD: t[EMBEDDING].clone()}), shift(EMBEDDING)),
     {"tied": False}, []),
    ("tied by tuning", {}, together(shift(EMBEDDING), lambda t: t.pop(HEAD)), {"tied": True}, []),
    ("a larger vocabulary", {}, together(shift(LINEAR), _grow), {"vocab": 52}, []),
    ("tied, with a larger vocabulary", {"tied": True}, together(shift(LINEAR), _grow),
     {"vocab": 52}, []),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_logits(case: tuple[str, Any, Change, Any, list[str]], tmp_path: Path) -> None:
    _, sizes, change, after, options = case
    model = small(**sizes)
    other = tuned(model, change, **after)
    base, path = write_hf(model, tmp_path / "base"), write_hf(other, tmp_path / "tuned")
    out = tmp_path / "out"
    done = call("extract-lora", base, path, out, "--rank", 4, *options, "--quiet")
    assert done.code == 0, done.err
    done = call("merge-lora", base, out, tmp_path / "merged", "--to", "hf", "--quiet")
    assert done.code == 0, done.err
    plain = _load(base)
    before = _logits(plain)
    if other.vocab != model.vocab:
        plain.resize_token_embeddings(other.vocab)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(plain, out).eval()
    found, merged = _logits(adapted), _logits(_load(tmp_path / "merged"))
    torch.testing.assert_close(found, merged, atol=2e-5, rtol=1e-5)
    rows = min(before.shape[-1], merged.shape[-1])
    assert float((merged[..., :rows] - before[..., :rows]).abs().max()) > 1e-2
    if ("attention_bias" in sizes) == ("mlp_bias" in sizes):  # PEFT asks for all of lora_B's
        assert not [w for w in told if "missing" in str(w.message)]


def test_a_wrong_scale_would_show(tmp_path: Path) -> None:
    model = small()
    base = write_meta(model, tmp_path / "meta", 2)
    path = write_hf(tuned(model, shift(LINEAR)), tmp_path / "tuned")
    hf, out = write_hf(model, tmp_path / "base"), tmp_path / "out"
    assert call("extract-lora", base, path, out, "--rank", 32, "-q").code == 0
    adapted = PeftModel.from_pretrained(_load(hf), out).eval()
    torch.testing.assert_close(_logits(adapted), _logits(_load(path)), atol=2e-5, rtol=1e-5)
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 1.01
    assert float((_logits(adapted) - _logits(_load(path))).abs().max()) > 1e-3
