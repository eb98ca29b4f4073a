"""What processes do that share in a run and are shown nothing: the same passes, in the same order.

Under torchrun the first process alone sees hidden states and logits, judges and reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llamatools.checkpoint import Checkpoint
from llamatools.fingerprints import fingerprint
from llamatools.golden.create import Run
from llamatools.golden.model import Golden
from llamatools.golden.prompts import Prompts
from llamatools.reference.observe import Point
from llamatools.verifying.causes import config_differences
from llamatools.verifying.perplexity import Text
from llamatools.verifying.verdict import incomparable
from llamatools.verifying.verify import prompts_of

if TYPE_CHECKING:
    import torch


class Nobody:
    """Implements Observer."""

    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        pass

    def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
        pass


def follow(checkpoint: Checkpoint, golden: Golden | None, text: Text | None, run: Run) -> None:
    """Beside `verify`."""
    if golden is None or not incomparable(checkpoint, golden):
        run(checkpoint, prompts_of(golden, text), Nobody())


def follow_against(
    checkpoint: Checkpoint,
    other: Checkpoint,
    prompts: Callable[[], Prompts],
    text: Text | None,
    run: Run,
) -> None:
    """Beside `against`."""
    digests = {fingerprint(c).digest for c in (checkpoint, other)}
    if len(digests) == 1 and not config_differences(checkpoint.spec, other.spec):
        if text is not None:
            run(checkpoint, text.windows, Nobody())
        return
    if checkpoint.spec.vocab_size != other.spec.vocab_size:
        return
    asked = prompts().prompts
    run(other, asked, Nobody())
    run(checkpoint, [*asked, *(text.windows if text else ())], Nobody())
    if text is not None:
        run(other, text.windows, Nobody())
