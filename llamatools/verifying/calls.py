"""Verification and golden files in one call each, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.engine.environment import check_alone
from llamatools.engine.outcome import Begin
from llamatools.fingerprints import fingerprint
from llamatools.golden.create import Report, Run, record
from llamatools.golden.model import Golden
from llamatools.golden.prompts import default_prompts, read_prompts
from llamatools.golden.read import check_logits, open_golden
from llamatools.golden.write import check_target, write_golden
from llamatools.reference.observe import Observer, Prompt
from llamatools.reference.settings import Settings
from llamatools.verifying import verify as whole
from llamatools.verifying.verdict import Wishes
from llamatools.verifying.verify import Outcome


def forward(
    settings: Settings | None = None, begin: Begin = lambda total: lambda done: None
) -> Run:
    """A forward pass with these settings."""

    def run(checkpoint: Checkpoint, prompts: Sequence[Prompt], observer: Observer) -> Report:
        from llamatools.reference.run import run  # torch

        check_alone("a verification")
        return run(checkpoint, prompts, observer, settings, begin).to_json()

    return run


def verify(
    source: str | Path | Checkpoint,
    golden: str | Path | Golden,
    *,
    settings: Settings | None = None,
    wishes: Wishes | None = None,
) -> Outcome:
    """Run a checkpoint and hold it against a golden file: `.holds`, `.verdict.checks`."""
    if not isinstance(source, Checkpoint):
        with open_checkpoint(source) as opened:
            return verify(opened, golden, settings=settings, wishes=wishes)
    if not isinstance(golden, Golden):
        golden = open_golden(Path(golden))
    check_logits(golden)
    return whole.verify(source, golden, None, forward(settings), wishes or Wishes())


def create_golden(
    source: str | Path | Checkpoint,
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    settings: Settings | None = None,
    force: bool = False,
) -> Golden:
    """Write what a checkpoint answers, by the forward pass of this package, to the file `out`.

    `prompts`: a file of them; None: those that are built in.
    """
    if not isinstance(source, Checkpoint):
        with open_checkpoint(source) as opened:
            return create_golden(opened, out, prompts=prompts, settings=settings, force=force)
    files = [Path(prompts)] if prompts is not None else []
    check_target(Path(out), force=force, models=[source.path], files=files)
    asked = default_prompts(source) if prompts is None else read_prompts(Path(prompts), source)
    digest = fingerprint(source).digest
    golden, _ = record(source, asked, forward(settings), fingerprint=digest)
    write_golden(golden, Path(out), force=force)
    return golden
