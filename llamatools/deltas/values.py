"""From a base and a delta, or a target, to the expressions of what is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.canonical import tensors as canonical_tensors
from llamatools.checkpoint import Checkpoint
from llamatools.deltas.edits import NewRowsAre, Summed, mean_row
from llamatools.deltas.exprs import Compared, Difference, Xored, any_rows, padded
from llamatools.deltas.kinds import MEAN, XOR, Kind
from llamatools.dtypes import DType
from llamatools.expr.nodes import Expr, Witnessed
from llamatools.plan.passes.cast import cast
from llamatools.plan.passes.edits import Added, Edit
from llamatools.plan.passes.merge import Merged
from llamatools.plan.plan import Step


def own(model: Checkpoint) -> dict[str, Expr]:
    """A model's tensors, without a copy of the embedding that stands for its head."""
    return {n: v for n, v in model.values.items() if n != HEAD or not model.spec.tied}


def start_of(base: Checkpoint, name: str) -> Expr:
    """What a tensor of the result starts from: a head that the base lacks, from its embedding."""
    values = own(base)
    return values[name] if name in values else values[EMBEDDING]


def watched(base: Checkpoint, name: str, key: str) -> Expr:
    """The same, shown to the run under a key where it is the base's tensor of that name."""
    value = start_of(base, name)
    return Witnessed(value, key) if name in own(base) else value


def starts(kind: Kind, name: str) -> bool:
    """Whether a tensor of the result starts from the base's."""
    return not (kind.whole and name in (EMBEDDING, HEAD))


def unread(base: Checkpoint, names: Collection[str], key: str = "{}") -> tuple[Step, ...]:
    """The base's tensors that a result does not start from, to be digested all the same."""
    return tuple(
        Step(key.format(name), Witnessed(value, key.format(name)))
        for name, value in own(base).items()
        if name not in names
    )


def applied(
    base: Checkpoint,
    delta: Checkpoint,
    kind: Kind,
    types: Mapping[str, DType],
    *,
    summed: bool,
) -> dict[str, Expr]:
    """The values of the result, each in the type that is asked for."""
    out: dict[str, Expr] = {}
    for name in canonical_tensors(delta.spec):
        y, start = delta.values[name], watched(base, name, name)
        if not starts(kind, name):
            out[name] = cast(name, y, types[name])
        elif kind.operation == XOR:
            out[name] = Xored(cast(name, padded(start, y.rows), types[name]), y)
        else:
            edits = _edits(name, start_of(base, name), y, kind, summed=summed)
            out[name] = Merged(padded(start, y.rows), name, edits, types[name])
    return out


def _edits(name: str, start: Expr, y: Expr, kind: Kind, *, summed: bool) -> tuple[Edit, ...]:
    grows = kind.padding == MEAN and y.rows > start.rows
    first = (NewRowsAre(start.rows, mean_row(name, start)),) if grows else ()
    last = (Summed(name),) if summed else ()
    return (*first, Added(any_rows(y)), *last)


BASE_KEY, BACK_KEY = "base: {}", "restored: {}"
"""Under which a run that makes a delta keeps what it finds out of base and result."""


def differences(base: Checkpoint, target: Checkpoint, operation: str) -> dict[str, Expr]:
    """The values of the delta from a base to a target."""
    out: dict[str, Expr] = {}
    for name in canonical_tensors(target.spec):
        y = target.values[name]
        start = padded(watched(base, name, BASE_KEY.format(name)), y.rows)
        out[name] = (
            Xored(y, cast(name, start, y.dtype)) if operation == XOR else Difference(start, y)
        )
    return out


def restored(base: Checkpoint, target: Checkpoint, operation: str, name: str) -> Step:
    """A step that writes nothing, and finds out what applying a delta to its base will give.

    An exact delta gives the target. An additive one is applied as it will be, and the elements
    are counted that do not come back.
    """
    key, y = BACK_KEY.format(name), target.values[name]
    if operation == XOR:
        return Step(key, y)
    start = padded(start_of(base, name), y.rows)
    back = Merged(start, key, (Added(any_rows(Difference(start, y))),), y.dtype)
    return Step(key, Compared(back, Witnessed(y, name), key))
