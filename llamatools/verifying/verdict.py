"""From a comparison to a verdict: gates, and on failure where it went wrong and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamatools.checkpoint import Checkpoint
from llamatools.errors import UsageError
from llamatools.golden.create import Report, kernels
from llamatools.golden.model import Golden
from llamatools.text import safe
from llamatools.verifying.causes import Cause, causes, config_differences
from llamatools.verifying.compare import Compared
from llamatools.verifying.gates import GATES, Check, Gate, check, choose_gate, override
from llamatools.verifying.locate import Place, locate
from llamatools.verifying.totals import Totals, spread, total


@dataclass(frozen=True)
class Wishes:
    """How strict to be."""

    gate: str | None = None
    """A key of GATES; None: by what is compared."""
    limits: Mapping[str, float | None] = field(default_factory=dict)
    """In place of the gate's: "rms", "mean_kl", "p95_kl"."""
    max_perplexity: float | None = None
    rounded: str | None = None
    """What is known to have rounded the weights since the golden's model."""

    def __post_init__(self) -> None:
        if self.gate not in (None, *GATES):
            raise UsageError(f"--gate {safe(self.gate)}: expected one of {', '.join(GATES)}")


@dataclass(frozen=True)
class Verdict:
    """A comparison, judged."""

    gate: Gate
    checks: tuple[Check, ...]
    std: float
    """Of the golden logits."""
    overall: Totals
    by_prompt: tuple[Totals, ...]
    place: Place | None
    """Where it first goes wrong; None where the verdict holds."""
    causes: tuple[Cause, ...]

    @property
    def holds(self) -> bool:
        return all(c.holds for c in self.checks)


def judge(
    checkpoint: Checkpoint,
    golden: Golden,
    compared: Compared,
    dtype: str,
    wishes: Wishes,
    ran: Report,
) -> Verdict:
    """`dtype`: of the run, as torch names it; `ran`: what it told of itself."""
    if wishes.gate is None:
        n_layers, now = checkpoint.spec.n_layers, kernels(ran)
        made_by = golden.generator
        same = made_by.own and bool(now) and now.items() <= made_by.versions.items()
        weights = checkpoint.dtype.name
        gate = choose_gate(golden, dtype, weights, n_layers, wishes.rounded, same_kernels=same)
    else:
        gate = GATES[wishes.gate]
    gate = override(gate, wishes.limits)
    std = spread(compared.rows)
    overall = total(compared.rows, std)
    finite = overall.finite and compared.broken is None
    checks = (
        Check("finite", None, None, finite),
        *check(gate, overall),
    )
    place = None
    found: list[Cause] = []
    if not all(c.holds for c in checks):
        place = locate(compared, gate, std)
        reference = golden.source.spec
        differences = config_differences(checkpoint.spec, reference)
        found = causes(place, differences, compared.shift, known=reference is not None)
    return Verdict(
        gate,
        checks,
        std,
        overall,
        tuple(total([r], std) for r in compared.rows),
        place,
        tuple(found),
    )


def incomparable(checkpoint: Checkpoint, golden: Golden) -> list[str]:
    """Why no run could tell anything."""
    size = checkpoint.spec.vocab_size
    if size == golden.vocab_size:
        return []
    return [f"the vocabulary has {size:,} rows, the golden's has {golden.vocab_size:,}"]
