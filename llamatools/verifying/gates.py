"""How far logits may be apart, by what is compared.

    rms      rms(difference) / std(golden logits), over all positions
    mean KL, p95 KL   of KL(golden || found) over positions, in nats

The most that was measured of clean models whose every part matters (random "sharp" ones of dim 64
to 512, which are noisier than real ones), in the order above: goldens of transformers, runs of this
package, the default prompts, which reach position 4127. On the left up to 8 layers, of narrow types
and casts to them up to 4; on the right up to 12:

    fp32              8.4e-6 3e-10  9e-10      1.4e-5 9e-10  2.3e-9
    fp32 and fp64     1.3e-4 8e-8   1.6e-7     1.9e-4  2.2e-7 2.8e-7   far positions' angles
    cast to fp16      0.0071 0.0002 0.0006     0.028   0.0037 0.011
    fp16              0.013  0.0007 0.0023     0.052   0.011  0.032
    cast to bf16      0.040  0.0074 0.021      0.16    0.11   0.33
    bf16              0.10   0.044  0.14       0.34    0.46   1.5

`pytest -m slow tests/verify/test_noise.py` measures again. Real models of 32 layers and more: in
fp32 up to 1e-3; in bf16 mean KL 6e-3, p95 3e-2. Narrow types have 1.4 to 2.5 times what was
measured, fp32 2 times at least. On one machine the same kernels give the same bits, in any type:
"same" has the limits of fp32.
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
        Gate("same", 2e-5, 1e-7, 1e-6),
        Gate("fp32", 2e-5, 1e-7, 1e-6),
        Gate("fp32-fp64", 4e-4, 1e-6, 1e-5),
        Gate("fp32-deep", 1e-3, 1e-5, 1e-4),
        Gate("cast-fp16", 1.1e-2, 4e-4, 1e-3),
        Gate("cast-fp16-deep", 5e-2, 7e-3, 2e-2),
        Gate("fp16", 2.5e-2, 1.5e-3, 5e-3),
        Gate("fp16-deep", 1e-1, 2e-2, 7e-2),
        Gate("cast", 6e-2, 1.2e-2, 4e-2),
        Gate("cast-deep", 2.5e-1, 2e-1, 5e-1),
        Gate("bf16", 1.7e-1, 8e-2, 3e-1),
        Gate("bf16-deep", 5.5e-1, 8e-1, 2.4),
        Gate("quantised", 3e-1, 1e-1, 5e-1),
    )
}
_OF_DTYPE = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_DEEP = {
    "fp32": (8, "fp32-deep"), "fp32-fp64": (8, "fp32-deep"),
    "cast-fp16": (4, "cast-fp16-deep"), "fp16": (4, "fp16-deep"),
    "cast": (4, "cast-deep"), "bf16": (4, "bf16-deep"),
}  # fmt: skip
"""Layers up to which a gate was measured, and the gate of deeper models."""
_NARROWER = {("F32", "BF16"), ("F32", "F16"), ("F16", "BF16")}
"""(golden's weights, checkpoint's): what a cast between them changes. bf16 in the range of fp16
keeps its values there, but subnormals: 7e-6 of rms in 8 layers, so that fp32's gate stays."""
_HIDING = GATES["cast-fp16"].rms
"""From here on, gates are wide enough to hide a defect."""
_NARROW = ("fp16", "bf16")
_TIMES_NOISE = 1.5
_WIDEST = 2.0
"""Times its own limits that a golden's noise may widen a gate to; one that hides, not at all."""


def choose_gate(
    golden: Golden,
    dtype: str,
    weights: str,
    n_layers: int,
    rounded: str | None = None,
    *,
    same_kernels: bool = False,
) -> Gate:
    """The gate for a run in `dtype` (a name of torch's) of a checkpoint of `weights`.

    `rounded`: what is known to have rounded these since the golden's model. `same_kernels`: the
    golden comes from this forward pass, with this torch on such a machine.
    """
    gate = _deep(*_by_types(golden, dtype), n_layers)
    before = golden.source.weights
    if rounded is None and (before, weights) in _NARROWER:
        rounded = f"weights were {BY_NAME[str(before)]}, now {weights}"
    if rounded is not None:
        cast = _deep("cast-fp16" if weights == "F16" else "cast", rounded, n_layers)
        gate = max(gate, cast, key=lambda g: g.rms)
    elif same_kernels and golden.dtype == dtype and weights in (before, "F32"):
        same = replace(GATES["same"], why=f"golden in {dtype} by the same kernels: the same bits")
        if gate.rms > same.rms:
            return same
    return _above_noise(gate, golden.noise)


def _by_types(golden: Golden, dtype: str) -> tuple[str, str]:
    """The gate of a shallow model, and why."""
    coarse = max(golden.dtype, dtype, key=list(_OF_DTYPE).index)
    name, why = _OF_DTYPE[coarse], f"golden in {golden.dtype}, run in {dtype}"
    if name == "fp64" and not golden.generator.own:
        return "fp32-fp64", f"{why}; others take rotary angles in float32"
    if name == "fp32" and golden.dtype != dtype:
        name = "fp32-fp64"
    return name, why


def _deep(name: str, why: str, n_layers: int) -> Gate:
    layers, deeper = _DEEP.get(name, (n_layers, name))
    if n_layers > layers:
        name, why = deeper, f"{why}, {n_layers} layers"
    return replace(GATES[name], why=why)


_LIMITS = ("rms", "mean_kl", "p95_kl")


def _above_noise(gate: Gate, noise: Noise | None) -> Gate:
    """No fine gate is below what the golden itself is uncertain by, unless that is too much."""
    if noise is None or gate.rms >= _HIDING or too_noisy(gate, noise):
        return gate
    wider = _widened(gate, noise)
    if wider == gate:
        return gate
    return replace(wider, why=f"{gate.why}; {_TIMES_NOISE:g} times the golden's noise")


def _widened(gate: Gate, noise: Noise) -> Gate:
    wider = {k: max(getattr(gate, k), _TIMES_NOISE * getattr(noise, k)) for k in _LIMITS}
    return replace(gate, **wider)


def too_noisy(gate: Gate, noise: Noise | None) -> bool:
    """A golden is less certain than what it is to judge by: its noise widens nothing."""
    plain = GATES[gate.name]
    if noise is None or plain.name in ("exact", "same"):
        return False
    most = 1.0 if plain.rms >= _HIDING else _WIDEST
    return any(_TIMES_NOISE * getattr(noise, k) > most * getattr(plain, k) for k in _LIMITS)


def excused(gate: Gate, noise: Noise | None, found: Totals) -> bool:
    """What did not hold is no more than the noise of a golden that is too noisy."""
    if noise is None or not too_noisy(gate, noise):
        return False
    return all(c.holds for c in check(_widened(gate, noise), found))


def remarks(gate: Gate, golden: Golden) -> list[str]:
    """What is to be known of a verdict by this gate."""
    out, noise = [], golden.noise
    if gate.name.startswith(_NARROW):
        narrow = golden.dtype in ("bfloat16", "float16")
        out.append(
            f"the limits of {gate.name} hide small defects (an eps, a flipped sign, a lost LoRA); "
            f"{'a golden that was made' if narrow else 'a run'} in fp32 shows them"
        )
        if noise is None:
            out.append("how noisy the golden itself is was not measured")
    if too_noisy(gate, noise):
        assert noise is not None
        out.append(
            f"the golden is further from {noise.wider} (rms {noise.rms:.2g}, mean KL "
            f"{noise.mean_kl:.2g}, p95 KL {noise.p95_kl:.2g}) than {gate.name} allows for: such "
            "noise widens no limit"
        )
    return out


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
