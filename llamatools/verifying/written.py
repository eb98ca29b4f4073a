"""What a model that was just written answers, held against a golden file before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from llamatools.checkpoint import open_checkpoint
from llamatools.engine.environment import environment
from llamatools.engine.targets import check_kept
from llamatools.errors import CheckFailed, UsageError
from llamatools.golden.create import Run
from llamatools.golden.model import Golden
from llamatools.golden.read import check_logits, open_golden
from llamatools.prepared import Prepared
from llamatools.readback import Answers, Manifest
from llamatools.reference.rope import check_scaling
from llamatools.reference.settings import Settings, find_device
from llamatools.text import count
from llamatools.verifying.report import failures
from llamatools.verifying.verdict import Wishes, incomparable
from llamatools.verifying.verify import Outcome, verify

_NOTHING = "nothing was published"


def fitting_golden(path: Path, prepared: Prepared, settings: Settings) -> Golden:
    """A golden file that the output can be held against, as far as that can be known beforehand.

    CheckFailed where it is another model's; BadInput, UsageError.
    """
    if environment()[2] > 1:
        raise UsageError(
            "--golden: the processes that write together do not run the model together",
            hint="run llamatools verify OUT --golden under torchrun afterwards",
        )
    check_kept(prepared.out, [path])
    golden = open_golden(path)
    check_logits(golden)
    problems = incomparable(prepared.source, golden)
    if problems:
        raise CheckFailed(problems, hint=f"the golden file is another model's; {_NOTHING}")
    check_scaling(prepared.source.spec)
    find_device(settings)
    return golden


def foreseen(
    prepared: Prepared, golden: Golden, name: str, settings: Settings
) -> dict[str, object]:
    """How the output would be run; schemas/plan.json describes it. Sizes in bytes."""
    from llamatools.reference.footprint import bytes_read, check_footprint, footprint  # torch

    values = {s.name: s.value for s in prepared.plan.steps}
    output = replace(prepared.source, spec=prepared.plan.spec, values=values)
    prompts, device = [p.prompt for p in golden.prompts], find_device(settings)
    planned = footprint(output, prompts, settings, device)
    check_footprint(planned, settings, device)
    return {
        "path": name,
        "generator": golden.generator.name,
        "prompts": len(prompts),
        "positions": golden.positions,
        "device": str(device),
        "dtype": settings.dtype,
        "memory": planned.total,
        "bytes_read": bytes_read(output, prompts, settings, device),
    }


def held_against(golden: Golden, name: str, run: Run) -> Answers:
    """For `readback.verified`; `name`: how the report calls the golden file."""

    def answers(folder: Path, manifest: Manifest) -> Mapping[str, object]:
        with open_checkpoint(folder) as opened:
            wishes = Wishes(rounded=rounding(manifest, golden))
            outcome = verify(opened, golden, None, run, wishes)
        if not outcome.holds:
            raise CheckFailed(failures(outcome), hint=_hint(outcome))
        return _summary(outcome, golden, name)

    return answers


def rounding(manifest: Manifest, golden: Golden) -> str | None:
    """How a run rounded weights; None where it did not, or where the golden has them rounded."""
    if golden.source.fingerprint == manifest["fingerprint"]:
        return None
    changed = sum(c.get("changed", 0) for c in manifest["casts"])
    if changed:
        return f"the cast changed {count(changed, 'value')}"
    merged = {t["name"] for t in (manifest["merge"] or {}).get("tensors", ()) if t["lost"]}
    types = {t["dtype"] for t in manifest["tensors"] if t["name"] in merged} - {"F32"}
    return f"merged weights are rounded to {', '.join(sorted(types))}" if types else None


def _hint(outcome: Outcome) -> str:
    """What the pattern usually means, and how to go on."""
    found = outcome.verdict.causes if outcome.verdict is not None else ()
    usually = f"usually {' or '.join(c.text for c in found[:2])}; " if found else ""
    return f"{usually}{_NOTHING}; convert without --golden, and llamatools verify tells more"


def _summary(outcome: Outcome, golden: Golden, name: str) -> dict[str, object]:
    """The verdict in short; schemas/manifest.json describes it."""
    verdict = outcome.verdict
    assert verdict is not None, "without one it does not hold"
    return {
        "path": name,
        "generator": golden.generator.name,
        "device": outcome.runs[0]["device"],
        "gate": asdict(verdict.gate),
        "checks": [asdict(c) for c in verdict.checks],
        "max_kl": verdict.overall.max_kl,
        "top1": verdict.overall.top1,
        "notes": list(outcome.notes),
    }
