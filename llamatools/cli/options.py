"""Options that several commands share, and their types."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import click

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Bytes: 5GB (10^9), 256MiB (2^20), or a plain number."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([a-zA-Z]*)", value)
        unit = _UNITS.get(match[2].upper()) if match else None
        size = int(float(match[1]) * unit) if match and unit else 0
        if size <= 0:
            self.fail(f"{value!r} is not a size; write it like 5GB or 256MiB", param, ctx)
        return size


SIZE = Size()


class DTypeName(click.Choice[str]):
    """keep, bf16, fp16, fp32; torch's names for the same are taken, too."""

    _LONG: ClassVar = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

    def __init__(self) -> None:
        super().__init__(["keep", "bf16", "fp16", "fp32"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(super().convert(self._LONG.get(value, value), param, ctx))


DTYPE = DTypeName()


class Weights(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them."""

    name = "weights"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(word) for word in value.split(","))
        except ValueError:
            found = (math.nan,)
        if not all(map(math.isfinite, found)):
            self.fail(f"{value!r} are not numbers; write them like 0.7,0.3", param, ctx)
        return found


WEIGHTS = Weights()

TO_OPTION = click.option(
    "--to",
    type=click.Choice(["hf", "meta", "safetensors"]),
    help="Layout to write.  [default: the model's own]",
)

SOURCE = click.Path(exists=False)


def _with(command: F, options: Iterable[Callable[[F], F]]) -> F:
    """Several options on a command; the last is the first that --help shows."""
    for option in options:
        command = option(command)
    return command


def run_options(command: F) -> F:
    """--jobs, --max-memory and --quiet, for commands that read whole models."""
    return _with(
        command,
        (
            click.option(
                "--jobs",
                type=click.IntRange(1, 64),
                help="Worker threads.  [default: processors, max 4]",
            ),
            click.option(
                "--max-memory",
                type=SIZE,
                default="256MiB",
                show_default=True,
                help="Bytes of buffers, whatever the model's size.",
            ),
            click.option("--quiet", "-q", is_flag=True, help="No progress and no summary."),
        ),
    )


def json_option(command: F) -> F:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON (see schemas/).")(
        command
    )


def layout_options(command: F) -> F:
    """--dtype, --weights, --shards, --max-shard-size, --check-finite: of what writes a model."""
    return _layout_options(command, ("--weights", "--container"))


def merge_layout_options(command: F) -> F:
    """The same for commands to which weights are something else."""
    return _layout_options(command, ("--container",))


def _layout_options(command: F, container_flags: tuple[str, ...]) -> F:
    return _with(
        command,
        (
            click.option(
                "--check-finite/--no-check-finite",
                default=None,
                help="Fail where weights are NaN or infinite, and name them.  "
                "[default: in merges alone]",
            ),
            click.option(
                "--max-shard-size",
                type=SIZE,
                default="5GB",
                show_default=True,
                help="Largest file of an hf or safetensors layout.",
            ),
            click.option(
                "--shards",
                type=click.IntRange(1, 1024),
                help="Model-parallel files of a Meta layout.  [default: as officially released]",
            ),
            click.option(
                *container_flags,
                "weights",
                type=click.Choice(["safetensors", "bin", "pth"]),
                help="Container: safetensors or bin for hf, pth or safetensors for meta.",
            ),
            click.option(
                "--dtype",
                type=DTYPE,
                default="keep",
                show_default=True,
                help="Cast every weight; 'keep' leaves each as it is.",
            ),
        ),
    )


_STRICT = click.option(
    "--strict", is_flag=True, help="Fail where the layout cannot hold the tokenizer exactly."
)


def tokenizer_checks(command: F) -> F:
    """--strict and --no-verify, for commands that convert a tokenizer."""
    return _with(
        command,
        (
            click.option(
                "--verify/--no-verify",
                default=True,
                help="Compare a converted tokenizer with its source, by the libraries of both.",
            ),
            _STRICT,
        ),
    )


def model_checks(command: F) -> F:
    """The same for commands that write a model, which may be read back."""
    return _with(
        command,
        (
            click.option(
                "--verify/--no-verify",
                default=None,
                help="Read the output back, every file and tensor, before it gets its name; or do "
                "not even compare a converted tokenizer with its source.  [default: that alone]",
            ),
            _STRICT,
        ),
    )


def instruct_option(command: F) -> F:
    """--instruct, --base"""
    return click.option(
        "--instruct/--base",
        default=None,
        help="Tuned to chat, or not: decides the chat template and what ends an answer.  "
        "[default: as the folder's name says]",
    )(command)


def tokenizer_options(command: F) -> F:
    """--tokenizer and --instruct, for commands that write a model; and their checks."""
    return _with(
        command,
        (
            model_checks,
            instruct_option,
            click.option(
                "--tokenizer",
                type=SOURCE,
                metavar="PATH|none",
                help="Tokenizer to write.  [default: the one beside the weights]",
            ),
        ),
    )


def golden_options(command: F) -> F:
    """--golden and --device, for commands whose output is run before it gets its name."""
    return _with(
        command,
        (
            click.option(
                "--device",
                default="auto",
                show_default=True,
                metavar="auto|cuda|cuda:N|mps|cpu",
                help="Where to compute for --golden.",
            ),
            click.option(
                "--golden",
                type=SOURCE,
                metavar="FILE",
                help="Also run the output, and hold it against these logits; implies --verify.",
            ),
        ),
    )


def force_option(command: F) -> F:
    """--force"""
    return click.option(
        "--force",
        is_flag=True,
        help="Replace the folder OUT and all it holds, in one step at the end.",
    )(command)
