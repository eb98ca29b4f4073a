"""Run a prepared command that writes a model, or print its plan, and report on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamatools.cli.messages import print_json

if TYPE_CHECKING:
    from llamatools.engine.outcome import Begin
    from llamatools.engine.processes import Processes
    from llamatools.golden.model import Golden
    from llamatools.prepared import Prepared
    from llamatools.reference.settings import Settings


@dataclass(frozen=True)
class Checks:
    """How the output is looked at before it gets its name."""

    verify: bool | None
    """It is read back. None: where it is run."""
    jobs: int | None
    max_memory: int
    golden: str | None = None
    """The golden file that it is run against."""
    device: str = "auto"

    def __post_init__(self) -> None:
        """UsageError where they contradict each other."""
        if self.golden is not None and self.verify is False:
            from llamatools.errors import UsageError

            raise UsageError("--no-verify and --golden exclude each other")


def produce(
    name: str, prepared: Prepared, checks: Checks, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """What every command does once it knows what to write."""
    from llamatools.cli.progress import stages
    from llamatools.preview import preview

    golden, silent = _fitting(prepared, checks), quiet or as_json
    with stages(quiet=silent) as stage:
        prepared = replace(prepared, reread=stage("read back"))
        report: dict[str, Any] | None = (
            preview(prepared, _foreseen(prepared, checks, golden))
            if dry_run
            else _run(_checked(prepared, checks, golden, stage, quiet=silent), stage(name))
        )
    if report is None:
        return
    if as_json:
        print_json(report)
    elif dry_run:
        from llamatools.cli.render import show_plan

        show_plan(report)
    elif not quiet:
        from llamatools.cli.render import show_conversion

        show_conversion(str(prepared.out), report)
        if "verified" in report:
            from llamatools.cli.render_verify import show_verified

            show_verified(report["verified"])


def _run(prepared: Prepared, begin: Begin) -> dict[str, object] | None:
    """None in a process that merely writes along."""
    from llamatools.conversion import run

    processes: Processes | None = click.get_current_context().obj
    if processes is None:
        return run(prepared, begin)
    from llamatools.engine.together import follow, leading, published

    if not processes.leads:
        follow(processes, prepared.plan, prepared.limits, prepared.out)
        return None
    report = run(prepared, begin, leading(processes))
    published(processes)
    return report


def _fitting(prepared: Prepared, checks: Checks) -> Golden | None:
    """The golden file that the output will be held against; it must fit."""
    if checks.golden is None:
        return None
    from llamatools.verifying.written import fitting_golden

    return fitting_golden(Path(checks.golden), prepared, _settings(checks))


def _settings(checks: Checks) -> Settings:
    from llamatools.reference.settings import Settings

    return Settings(device=checks.device, jobs=checks.jobs)


def _foreseen(
    prepared: Prepared, checks: Checks, golden: Golden | None
) -> dict[str, object] | None:
    """What --verify and --golden would do; None without them."""
    if golden is None or checks.golden is None:
        return {"golden": None} if checks.verify else None
    from llamatools.verifying.written import foreseen

    return {"golden": foreseen(prepared, golden, checks.golden, _settings(checks))}


def _checked(
    prepared: Prepared,
    checks: Checks,
    golden: Golden | None,
    stage: Callable[[str], Begin],
    *,
    quiet: bool,
) -> Prepared:
    """The same, proving what it was asked to prove."""
    if not checks.verify and golden is None:
        return prepared
    from llamatools.readback import verified

    answers = None
    if golden is not None and checks.golden is not None:
        from llamatools.cli.forward import runner
        from llamatools.verifying.written import held_against

        run = runner("verify", _settings(checks), quiet=quiet, begin=stage("verify"))
        answers = held_against(golden, checks.golden, run)
    return verified(
        prepared,
        jobs=checks.jobs,
        max_memory=checks.max_memory,
        begin=stage("read back"),
        answers=answers,
    )
