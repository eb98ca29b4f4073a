"""`apply-delta`: a base and a delta into the model that the delta was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.conversion import prepare, run
from llamatools.deltas.choose import choose
from llamatools.deltas.edits import SUM
from llamatools.deltas.fit import check_fit, other_constants, other_type
from llamatools.deltas.kinds import Kind
from llamatools.deltas.opening import Delta, open_delta
from llamatools.deltas.proof import NAME, Promised, Proof
from llamatools.deltas.sums import KnownSum, check_sum
from llamatools.deltas.values import applied, own, start_of, starts, unread
from llamatools.engine.outcome import Begin, Outcome
from llamatools.engine.resources import DEFAULT_MEMORY
from llamatools.engine.targets import check_paths
from llamatools.errors import BadInput, CheckFailed
from llamatools.family.identify import identify
from llamatools.fingerprints import fingerprint
from llamatools.history import check_new
from llamatools.plan.build import Options
from llamatools.plan.passes.exactsum import rounded
from llamatools.plan.passes.merge import merges
from llamatools.plan.plan import Plan
from llamatools.prepared import Prepared
from llamatools.text import safe
from llamatools.tokenizer import json_write
from llamatools.tokenizer.combine import MODEL_NAME


def apply_delta(
    base: str | Path,
    delta: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    kind: str | None = None,
    allow_again: bool = False,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
) -> dict[str, object]:
    """Apply a delta to its base; returns the manifest, which is also in the output.

    Without options, the result is in the base's own layout. Files that are XORed as a whole are
    `decode_delta`'s.
    """
    with open_checkpoint(base) as opened, open_delta(delta) as change:
        return run(
            prepare_delta(
                opened,
                change,
                out,
                options or Options(to=opened.layout.name),
                kind=kind,
                allow_again=allow_again,
                jobs=jobs,
                max_memory=max_memory,
                force=force,
            )
        )


def prepare_delta(
    base: Checkpoint,
    delta: Delta,
    out: str | Path,
    options: Options,
    *,
    kind: str | None = None,
    allow_again: bool = False,
    jobs: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
    begin: Begin = lambda total: lambda done: None,
) -> Prepared:
    """Plan it, and check everything that can be checked before writing.

    The delta is read once for its digest; and where it says what its base is, so is the base.
    `begin` is told of both.
    """
    check_paths(base.path, Path(out), force=force)
    proof = delta.proof
    how, known = choose(kind, delta, base.spec)
    check_fit(base.spec, delta.model.spec, word="delta", may_tie=proof is not None)
    result = _result(base, delta, how, known)
    unused = unread(base, [name for name in result.values if starts(how, name)])

    def amend(plan: Plan) -> Plan:
        return replace(plan, unused=unused, source_names=tuple(own(base)))

    prepared = prepare(
        _remarked(result, base, delta, known, options),
        out,
        replace(options, tokenizer=_tokenizer(base, delta, options)),
        jobs=jobs,
        max_memory=max_memory,
        force=force,
        amend=amend,
    )
    digest = fingerprint(delta.model, jobs=jobs, max_memory=max_memory, begin=begin).digest
    if not allow_again:
        check_new(base.folder, [(f"delta {safe(delta.name)}", digest)])
    if proof is not None:
        _check_delta(delta, proof, digest)
        _check_base(proof, fingerprint(base, jobs=jobs, max_memory=max_memory, begin=begin).digest)
    plan = replace(prepared.plan, merge=_report(delta, how, digest))
    check = partial(_check, plan, proof, known)
    return replace(prepared, plan=plan, origin=base, check=check)


def _result(base: Checkpoint, delta: Delta, how: Kind, known: KnownSum | None) -> Checkpoint:
    """The delta's checkpoint as if it had always held the result."""
    model, proof = delta.model, delta.proof
    spec = replace(model.spec, context=model.spec.context or base.spec.context)
    types = {
        name: proof.tensors[name].dtype if proof else start_of(base, name).dtype
        for name in own(model)
    }
    return replace(
        model,
        spec=spec,
        identity=identify(spec, context_is_known=spec.context is not None),
        values=applied(base, model, how, types, summed=known is not None),
        same_head=spec.tied,
    )


def _remarked(
    result: Checkpoint, base: Checkpoint, delta: Delta, known: KnownSum | None, options: Options
) -> Checkpoint:
    """With what both sides had to say, and what the two say of each other."""
    model, proof = delta.model, delta.proof
    conflicts = [f"base: {c}" for c in base.conflicts] + [f"delta: {c}" for c in model.conflicts]
    notes = [f"base: {n}" for n in base.notes] + [f"delta: {n}" for n in model.notes]
    notes.append("config, generation settings and tokenizer files are the delta's, if it has them")
    notes += other_constants(base.spec, model.spec, word="delta")
    if base.spec.tied and not model.spec.tied:
        notes.append("the base's head is its embedding; the result has a head of its own")
    if proof is None:
        conflicts += other_type(base.dtype, model.dtype)
    elif options.dtype != "keep":
        notes.append("what --dtype casts is not held against the digests that the delta states")
    else:
        notes.append("the result is held against the digests that the delta states")
    if proof is not None and proof.inexact:
        notes.append(
            f"{proof.inexact:,} values differ in their last bits from the model that the delta was "
            "made of: it is not exact, and says so"
        )
    if known is not None:
        notes.append(
            f"taken for {known.title}: the sum of all values is held against {known.total:.4f}"
        )
    return replace(result, conflicts=tuple(conflicts), notes=tuple(notes))


def _tokenizer(base: Checkpoint, delta: Delta, options: Options) -> str | None:
    """The delta's own, which comes with its folder, else the base's."""
    held = {MODEL_NAME, json_write.NAME}
    if options.tokenizer is not None or held & delta.model.folder.names:
        return options.tokenizer
    return str(base.folder.path) if held & base.folder.names else None


def _report(delta: Delta, how: Kind, digest: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": delta.name,
        "format": "delta",
        "kind": how.title,
        "blake3": digest,
        "weight": None,
        "modules": len(own(delta.model)),
        "scales": [],
    }
    return {"adapters": [entry]}


def _check_delta(delta: Delta, proof: Proof, digest: str) -> None:
    if digest != proof.fingerprint:
        raise BadInput(
            f"{safe(delta.model.folder.path)}: its fingerprint is {digest[:16]}..., {NAME} says "
            f"{proof.fingerprint[:16]}...",
            hint="the delta is damaged or was changed: fetch it again",
        )


def _check_base(proof: Proof, digest: str) -> None:
    if digest != proof.base:
        raise BadInput(
            f"the delta was made for a base of the fingerprint {proof.base[:16]}... "
            f"({proof.base_title}); this one's is {digest[:16]}...",
            hint="another model, another version of it, or the same in another type; "
            "llamatools fingerprint tells",
        )


def _check(plan: Plan, proof: Proof | None, known: KnownSum | None, outcome: Outcome) -> None:
    """CheckFailed where the result is not what the delta, or what is known of it, promises."""
    if known is not None:
        sums = (outcome.counts[m.name].get(SUM, 0) for m in merges(plan))
        check_sum(known, rounded(sum(sums)), plan.spec)
    if proof is not None:
        _check_tensors(plan, proof.tensors, outcome)


def _check_tensors(plan: Plan, promised: Mapping[str, Promised], outcome: Outcome) -> None:
    wrong = [
        f"{step.name}: not the tensor that the delta promises"
        for step in plan.steps
        if step.name in promised
        and step.value.dtype == promised[step.name].dtype
        and outcome.tensors[step.name] != promised[step.name].blake3
    ]
    if wrong:
        raise CheckFailed(
            [*wrong[:20], *([f"and {len(wrong) - 20} more tensors"] if len(wrong) > 20 else [])],
            hint="the base is the right one, and the delta undamaged: is --kind as it should be?",
        )
