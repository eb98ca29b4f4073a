"""How far logits may be apart, by what is compared.

    rms      rms(difference) / std(golden logits), over all positions
    mean KL, p95 KL   of KL(golden || found) over positions, in nats

Measured noise: between implementations in fp32 up to 5e-6 in small models and 1e-3 in deep ones; of
bf16 in real models, mean KL 6e-3 and p95 3e-2. Small random models whose every part matters are
noisier: bf16 up to 0.1, 0.04, 0.14, fp16 up to 0.013, 6e-4, 2e-3 in the order above. What is
computed in fp32 rounds the angles of far positions, which fp64 does not: 2e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llamatools.dtypes import BY_NAME
from llamatools.golden.model import Golden, Noise
from llamatools.verifying.totals import Totals


@dataclass(frozen=True)
class Gate:
    """Limits, each of which may be reached."""

    name: str
    rms: float
    mean_kl: float
    p95_kl: float
    why: str = ""


GATES = {
    g.name: g
    for g in (
        Gate("exact", 0.0, 0.0, 0.0),
        Gate("fp64", 1e-10, 1e-12, 1e-11),
        Gate("fp32", 2e-5, 1e-7, 1e-6),
        Gate("fp32-fp64", 2e-4, 1e-6, 1e-5),
        Gate("fp32-deep", 1e-3, 1e-5, 1e-4),
        Gate("fp16", 3e-2, 4e-3, 2e-2),
        Gate("bf16", 1.5e-1, 8e-2, 3e-1),
        Gate("bf16-deep", 1e-1, 2e-2, 1e-1),
        Gate("cast", 2e-2, 2e-3, 1e-2),
        Gate("quantised", 3e-1, 1e-1, 5e-1),
    )
}
_OF_DTYPE = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_DEEP = 8
"""Layers up to which a model is no deeper than those that 2e-5 was measured on."""
_TIMES_NOISE = 4.0
_NARROWER = {("F32", "BF16"), ("F32", "F16"), ("BF16", "F16"), ("F16", "BF16")}
"""(golden's weights, checkpoint's): what a cast between them may change."""


def choose_gate(
    golden: Golden, dtype: str, weights: str, n_layers: int, rounded: str | None = None
) -> Gate:
    """The gate for a run in `dtype` (a name of torch's) of a checkpoint of `weights`.

    `rounded`: what is known to have rounded these since the golden's model.
    """
    order = list(_OF_DTYPE)
    coarse = max(golden.dtype, dtype, key=order.index)
    name = _OF_DTYPE[coarse]
    why = f"golden in {golden.dtype}, run in {dtype}"
    if name in ("fp32", "bf16") and n_layers > _DEEP:
        name, why = f"{name}-deep", f"{why}, {n_layers} layers"
    elif name == "fp32" and golden.dtype != dtype:
        name = "fp32-fp64"
    gate = GATES[name]
    before = golden.source.weights
    if rounded is None and (before, weights) in _NARROWER:
        rounded = f"weights were {BY_NAME[str(before)]}, now {weights}"
    if rounded is not None and gate.rms < GATES["cast"].rms:
        gate, why = GATES["cast"], rounded
    return _above_noise(replace(gate, why=why), golden.noise)


def _above_noise(gate: Gate, noise: Noise | None) -> Gate:
    """No gate is below what the golden itself is uncertain by."""
    if noise is None or gate.name == "exact":
        return gate
    wider = {
        key: max(getattr(gate, key), _TIMES_NOISE * getattr(noise, key))
        for key in ("rms", "mean_kl", "p95_kl")
    }
    if all(wider[key] == getattr(gate, key) for key in wider):
        return gate
    return replace(gate, why=f"{gate.why}; {_TIMES_NOISE:g} times the golden's noise", **wider)


def override(gate: Gate, limits: Mapping[str, float | None]) -> Gate:
    """With the limits that the user gave."""
    given = {key: value for key, value in limits.items() if value is not None}
    return replace(gate, why=f"{gate.why}; limits as given", **given) if given else gate  # type: ignore[arg-type]


@dataclass(frozen=True)
class Check:
    """One gate, and whether it held."""

    name: str
    found: float | None
    limit: float | None
    holds: bool


_CHECKS = {"rms": "rms(diff)/std(logits)", "mean_kl": "mean KL", "p95_kl": "p95 KL"}


def check(gate: Gate, found: Totals) -> tuple[Check, ...]:
    """Every limit of a gate held against what was found; what is no number holds nothing."""
    out = []
    for key, name in _CHECKS.items():
        value, limit = getattr(found, key), getattr(gate, key)
        out.append(Check(name, value, limit, value is not None and value <= limit))
    return tuple(out)
