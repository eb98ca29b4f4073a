"""--check-finite: a pass that changes nothing, and counts the values that are no numbers.

They are counted where they are read anyway, block by block. Merged values are counted in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llamatools.errors import CheckFailed
from llamatools.expr.bits import Bits
from llamatools.expr.nodes import Context, Expr, Unary
from llamatools.expr.numbers import count_not_finite
from llamatools.plan.passes.cast import Cast
from llamatools.plan.passes.merge import Merged, merges
from llamatools.plan.plan import Plan
from llamatools.text import count, safe

_NOT_FINITE = "not_finite"
_LOOKED = "NaN or infinite"
_SHOWN = 20

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Watched(Unary):
    """`x` as it is; how many of its elements are NaN or infinite is noted."""

    name: str

    @property
    def key(self) -> str:
        """Of the statistics: another than that of a cast of the same tensor."""
        return f"{self.name} {_NOT_FINITE}"

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.x.fill(out, start, ctx)
        if found := sum(count_not_finite(p, self.dtype) for p in _pieces(out)):
            ctx.note(self.key, {_NOT_FINITE: found})

    def scratch_bytes(self, rows: int) -> int:
        masks = min(rows * self.columns, _PIECE) * (self.dtype.size + 1)
        return self.x.scratch_bytes(rows) + masks

    def describe(self) -> str:
        return self.x.describe()


_PIECE = 1 << 18
"""Elements looked at together."""


def _pieces(block: Bits) -> Iterator[Bits]:
    rows, columns = block.shape
    height = max(1, _PIECE // max(1, columns))
    width = min(columns, _PIECE)
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            yield block[i : i + height, j : j + width]


def watched(plan: Plan) -> Plan:
    """The plan, with an eye on every tensor it writes: on a cast's before it is cast."""

    def watch(name: str, value: Expr) -> Expr:
        if isinstance(value, Merged):
            return value
        if isinstance(value, Cast):
            return replace(value, x=Watched(value.x, name))
        return Watched(value, name)

    steps = tuple(replace(s, value=watch(s.name, s.value)) for s in plan.steps)
    return replace(plan, steps=steps)


def check_finite(plan: Plan, counts: Counts) -> None:
    """CheckFailed names the tensors with values that are no numbers, where somebody looked."""
    problems = [
        f"{m.name}: {n:,} merged values are NaN or beyond the range of {m.to}"
        for m in merges(plan)
        if (n := counts.get(m.name, {}).get(_NOT_FINITE, 0))
    ]
    hint = "--dtype bf16 or fp32 has the range that fp16 lacks; NaN comes with the base"
    found = [p for step in plan.steps for p in _problems(step.value, counts)]
    if any(_LOOKED in p for p in found):
        hint = "the files are damaged, or training went wrong; --no-check-finite lets them pass"
    problems += found
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"and {count(len(problems) - _SHOWN, 'more tensor')}"]
    if problems:
        raise CheckFailed(problems, hint=hint)


def _problems(value: Expr, counts: Counts) -> Iterator[str]:
    look = value.x if isinstance(value, Cast) else value
    if not isinstance(look, Watched):
        return
    if n := counts.get(look.key, {}).get(_NOT_FINITE, 0):
        yield f"{safe(look.name)}: {count(n, 'value')} {_LOOKED} ({look.describe()})"
    if isinstance(value, Cast) and (n := counts.get(value.name, {}).get("overflowed", 0)):
        yield f"{safe(look.name)}: {count(n, 'value')} beyond the range of {value.to}"
