"""Which kind a delta is: as it says itself, as it was asked for, or as its sizes tell."""

from __future__ import annotations

from llamatools.deltas.kinds import ADD, KINDS, XOR, ZEROS, Kind
from llamatools.deltas.opening import Delta
from llamatools.deltas.sums import KnownSum, known_sum
from llamatools.errors import BadInput, UsageError
from llamatools.spec import ModelSpec
from llamatools.text import safe

_PADDINGS = (
    "--kind pad-zeros (vicuna-v0): zeros; --kind pad-mean (alpaca): the mean of the base's rows; "
    "--kind whole-vocabulary (ziya): the delta's embedding and head are whole, and not added"
)


def choose(wanted: str | None, delta: Delta, base: ModelSpec) -> tuple[Kind, KnownSum | None]:
    """The kind, and the release that the result must prove to be.

    UsageError where the kind that is asked for is not the delta's, or where none is, and several
    are possible.
    """
    if wanted not in (None, *KINDS):
        raise UsageError(f"--kind {safe(wanted)}: expected one of {', '.join(KINDS)}")
    kind = KINDS[wanted] if wanted else None
    grows = delta.model.spec.vocab_size > base.vocab_size
    if delta.proof is not None:
        return _stated(kind, delta, grows=grows), None
    if kind is not None and kind.operation == XOR:
        raise UsageError(
            f"--kind xor: {safe(delta.name)} holds neither XOR files (*.enc) nor an exact delta of "
            "make-delta",
            hint="an additive delta needs no --kind, unless it has more rows than the base",
        )
    if kind is not None and kind.whole:
        return kind, None
    if not grows:
        if kind is not None and kind.padding is not None:
            raise UsageError(
                f"--kind {wanted}: the delta has as many rows as the base, so that none are new",
                hint="leave out --kind",
            )
        return Kind(ADD), None
    known = known_sum(delta.model.spec, delta.model.dtype)
    if kind is None and known is not None:
        return Kind(ADD, known.padding, release=True), known
    if kind is None or kind.padding is None:
        raise UsageError(
            f"the delta has {delta.model.spec.vocab_size:,} rows in embedding and head, the base "
            f"{base.vocab_size:,}; it cannot be told what the base's new rows were",
            hint=_PADDINGS,
        )
    if kind.release and known is None:
        raise BadInput(
            f"{safe(delta.name)}: not Alpaca's sizes and type, so that there is no sum to check",
            hint="--kind pad-mean applies it without a check",
        )
    return kind, known if kind.release else None


def _stated(kind: Kind | None, delta: Delta, *, grows: bool) -> Kind:
    """Of a delta that says what it is. Another padding may be tried: the result is checked."""
    proof = delta.proof
    assert proof is not None
    if kind is not None and (kind.operation != proof.kind or kind.whole):
        raise UsageError(f"the delta says that it is of kind {proof.kind}", hint="leave out --kind")
    padding = (kind.padding if kind else None) or proof.padding or ZEROS
    return Kind(proof.kind, padding if grows else None)
