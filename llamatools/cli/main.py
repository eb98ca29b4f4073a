"""The command line: `llamatools COMMAND`. Importing this costs click and nothing more."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

import click

from llamatools._version import __version__
from llamatools.cli import failures, several
from llamatools.cli.apply_delta import apply_delta
from llamatools.cli.check import check
from llamatools.cli.convert import convert
from llamatools.cli.extract_lora import extract_lora
from llamatools.cli.fingerprint import fingerprint
from llamatools.cli.golden import golden
from llamatools.cli.inspect import inspect
from llamatools.cli.make_delta import make_delta
from llamatools.cli.merge_lora import merge_lora
from llamatools.cli.tokenizer import tokenizer
from llamatools.cli.verify import verify
from llamatools.engine.commit import committed


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 holds, 1 a check did not hold, 2 usage, 3 bad input, 4 input/output, "
    "5 output exists or another run writes it, 130/143 stopped.",
)
@click.version_option(__version__, prog_name="llamatools")
def cli() -> None:
    """Detect, convert, merge and fingerprint Llama checkpoints and their tokenizers."""


for _command in (
    convert,
    merge_lora,
    apply_delta,
    make_delta,
    extract_lora,
    inspect,
    fingerprint,
    check,
    verify,
    golden,
    tokenizer,
):
    cli.add_command(_command)
several.share(cli)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop once, unless the output stands; further signals change nothing."""
    _ignore_signals()
    if not committed():
        raise failures.Stopped(number)


def _ignore_signals() -> None:
    for every in _SIGNALS:
        signal.signal(every, signal.SIG_IGN)


def main() -> int:
    """Run the command that this process was started for; returns its exit code."""
    # Headers of a large model become a million small objects, none of them garbage; looking for
    # some among them, over and over, would cost more than parsing them.
    gc.disable()
    for number in _SIGNALS:
        # Who started us may have asked to survive a hang-up (nohup).
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)

    def command() -> object:
        several.hush()
        return cli(standalone_mode=False)

    code = failures.guard(command, sys.argv[1:])
    _ignore_signals()  # the interpreter takes a while to end, and the outcome is decided
    several.linger(code)
    return code
