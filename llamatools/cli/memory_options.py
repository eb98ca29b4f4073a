"""What `inspect --kv-memory` can be asked, as options and their types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from llamatools.cli.options import SIZE, Size
from llamatools.errors import UsageError
from llamatools.memory.engines import ENGINES
from llamatools.memory.formats import ALIASES, FORMATS
from llamatools.memory.units import parse_tokens

F = TypeVar("F", bound=Callable[..., Any])


class Contexts(click.ParamType):  # type: ignore[type-arg]
    """Numbers of tokens with commas between them: 8k,32k,131072."""

    name = "contexts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if re.fullmatch(r"\d{1,3}(,\d{3})+", value):
            one = value.replace(",", "")
            self.fail(f"{value!r} may be one or several; write {one}, or 8k,32k", param, ctx)
        found = {word: parse_tokens(word) for word in value.split(",")}
        wrong = [word for word, n in found.items() if n is None]
        if wrong:
            self.fail(
                f"{', '.join(map(repr, wrong))}: not a context; write it like 8k,32k,131072",
                param,
                ctx,
            )
        return tuple(sorted({n for n in found.values() if n is not None}))


def _joined(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    return tuple(sorted({n for several in value for n in several}))


class SizeWithUnit(Size):
    """Bytes; a bare number would leave open what it counts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and not re.search(r"[a-zA-Z]", value):
            self.fail(f"{value!r} has no unit; write it like 80GiB or 80GB", param, ctx)
        return super().convert(value, param, ctx)


class FormatName(click.Choice[str]):
    """A number format, or another of its names."""

    def __init__(self) -> None:
        super().__init__(list(FORMATS), case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).lower()
        return str(super().convert(ALIASES.get(name, name), param, ctx))


class GpuName(click.ParamType):  # type: ignore[type-arg]
    """A name, which is looked up later, or a size."""

    name = "gpu"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        if isinstance(value, str) and re.fullmatch(r"[\d.]+ ?([kmgt]i?)?b", value, re.I):
            return SIZE.convert(value, param, ctx)
        return str(value)


class ChartFile(click.ParamType):  # type: ignore[type-arg]
    """A name whose end says what to draw."""

    name = "file"
    forms = (".svg", ".png")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.suffix.lower() not in self.forms:
            self.fail(f"{str(value)!r} ends in neither {' nor '.join(self.forms)}", param, ctx)
        return path


FORMAT = FormatName()

_OPTIONS = (
    click.option("--force", is_flag=True, help="Replace the file of --plot."),
    click.option("--plot", "chart", type=ChartFile(), metavar="FILE.svg|.png",
                 help="Draw memory against context (needs llamatools[plot])."),
    click.option("--fail-if-over", type=SizeWithUnit(), metavar="SIZE",
                 help="Exit 1 if a GPU needs more than this (80GiB) at the longest context."),
    click.option("--compare", is_flag=True, help="Show every GPU that is known."),
    click.option("--gpu", "gpus", type=GpuName(), multiple=True, metavar="NAME|SIZE",
                 help="GPU to fit into: h100, a100-40gb, 48GiB. Can be repeated."),
    click.option("--pp", type=click.IntRange(1, 1024), default=1, help="Pipeline stages."),
    click.option("--tp", type=click.IntRange(1, 1024), default=1, help="Tensor-parallel ranks."),
    click.option("--engine", type=click.Choice(list(ENGINES)), default="none",
                 help="Whose blocks and padding to count.  [default: none]"),
    click.option("--images", type=click.IntRange(0, 10_000), default=1,
                 help="Images in a sequence, for Llama 3.2 vision.  [default: 1]"),
    click.option("--weights-dtype", type=FORMAT, metavar="FORMAT",
                 help="Format of the weights.  [default: as stored]"),
    click.option("--kv-dtype", type=FORMAT, metavar="FORMAT",
                 help=f"Format of the cache: {', '.join(FORMATS)}.  [default: the weights']"),
    click.option("--batch", type=click.IntRange(1, 1 << 20), default=1,
                 help="Sequences at once.  [default: 1]"),
    click.option("--context", "contexts", type=Contexts(), metavar="8k,32k,...",
                 multiple=True, callback=_joined,
                 help="Tokens of a sequence.  [default: 8k, 32k, 128k, up to the model's own]"),
    click.option("--kv-memory", is_flag=True,
                 help="Say what SRC needs in memory instead, and where it fits. SRC may also be a "
                 "params.json, a config.json, a hub's org/name, or a name: llama-3.1-70b."),
)  # fmt: skip


def memory_options(command: F) -> F:
    """--kv-memory, and what goes with it."""
    for option in _OPTIONS:
        command = option(command)
    return command


def refuse_without_kv_memory(given: Mapping[str, object]) -> None:
    """UsageError where an option that only --kv-memory has is given alone."""
    ctx = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    flags = {p.name: p.opts[0] for p in ctx.command.params}
    alone = [flags[name] for name in given if ctx.get_parameter_source(name) != default]
    if alone:
        raise UsageError(
            [f"{flag} belongs to --kv-memory" for flag in alone], hint="add --kv-memory"
        )
