"""Options of commands that run the forward pass, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from llamatools.cli.options import SIZE

if TYPE_CHECKING:
    from llamatools.checkpoint import Checkpoint
    from llamatools.engine.outcome import Begin
    from llamatools.golden.create import Run
    from llamatools.reference.observe import Observer, Prompt
    from llamatools.reference.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class RunType(click.Choice[str]):
    """fp32, bf16, fp16, fp64; torch's names for the same are taken, too."""

    _LONG: ClassVar = {
        "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__(["fp32", "bf16", "fp16", "fp64"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(super().convert(self._LONG.get(value, value), param, ctx))


def forward_options(command: F) -> F:
    """--dtype, --device, --resident, --max-device-memory, --jobs, --threads and --quiet."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--dtype",
        type=RunType(),
        default="fp32",
        show_default=True,
        help="Type to compute in; fp32 shows what bf16 hides.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cuda|cuda:N|mps|cpu",
        help="Where to compute.",
    ),
    click.option(
        "--resident", is_flag=True, help="Keep weights on the device after they were read."
    ),
    click.option(
        "--max-device-memory",
        type=SIZE,
        help="Refuse, before anything is read, what takes more of the device.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1, 64),
        help="Threads that read.  [default: processors, max 4]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        help="Threads that compute on a processor; they decide last bits.  [default: processors]",
    ),
    click.option("--quiet", "-q", is_flag=True, help="No progress and no summary."),
)


def make_settings(options: dict[str, Any]) -> Settings:
    """Settings from the options above."""
    from llamatools.reference.settings import Settings

    names = ("dtype", "device", "resident", "max_device_memory", "jobs", "threads")
    return Settings(**{name: options[name] for name in names})


def runner(what: str, settings: Settings, *, quiet: bool, begin: Begin | None = None) -> Run:
    """A forward pass with progress on stderr, and with its memory: before it and after.

    `begin`: where progress is shown already.
    """
    from llamatools.cli.messages import tell
    from llamatools.cli.progress import progress
    from llamatools.reference.run import Runner
    from llamatools.text import nbytes

    def say(text: str) -> None:
        if not quiet:
            tell(f"{what}: {text}")

    def forward(
        checkpoint: Checkpoint, prompts: Sequence[Prompt], observer: Observer
    ) -> dict[str, object]:
        with (
            progress(what, quiet=quiet) if begin is None else nullcontext(begin) as shown,
            Runner(checkpoint, settings, shown) as passes,
        ):
            say(f"{nbytes(passes.plan(prompts).total)} of memory on {passes.device}, at most")
            report = passes.forward(prompts, observer)
        if report.peak is not None:
            word = "as reckoned" if report.within else "more than was reckoned"
            say(f"{nbytes(report.peak)} were taken, {word}")
        return report.to_json()

    return forward
