"""Verification from end to end: one forward pass, held against a golden file or another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llamatools.checkpoint import Checkpoint
from llamatools.fingerprints import fingerprint
from llamatools.golden.create import Report, Run, record
from llamatools.golden.model import Golden, Noise
from llamatools.golden.prompts import Prompts, find_words
from llamatools.history import NAME as MANIFEST
from llamatools.history import merged_before
from llamatools.reference.observe import Observer, Prompt
from llamatools.verifying.causes import config_differences
from llamatools.verifying.compare import Compared, Comparer
from llamatools.verifying.gates import Gate, excused, remarks
from llamatools.verifying.perplexity import Perplexity, Scorer, Several, Text
from llamatools.verifying.totals import spread, total
from llamatools.verifying.unseen import differing, told, unseen_differences, unseen_rows, used
from llamatools.verifying.verdict import Verdict, Wishes, incomparable, judge


@dataclass(frozen=True)
class Outcome:
    """All that a verification found out."""

    golden: Golden | None = None
    compared: Compared | None = None
    verdict: Verdict | None = None
    perplexity: Perplexity | None = None
    perplexity_of_other: Perplexity | None = None
    identical: bool = False
    """The other model has the same fingerprint and settings: there was nothing to run."""
    tensors: tuple[str, ...] | None = None
    """Those whose digests differ from the other model's; None where digests were not compared."""
    differences: tuple[str, ...] = ()
    """Settings that differ from the golden's model."""
    problems: tuple[str, ...] = ()
    """What fails beside the checks of the verdict."""
    runs: tuple[Report, ...] = ()
    """How the forward passes were run, this model's first."""
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.problems and (self.verdict is None or self.verdict.holds)


def verify(
    checkpoint: Checkpoint, golden: Golden | None, text: Text | None, run: Run, wishes: Wishes
) -> Outcome:
    """Run a checkpoint on a golden's prompts, a text, or both."""
    if golden is None:
        return _measured(checkpoint, text, run, wishes)
    outcome = _compared(checkpoint, golden, text, run, wishes)
    if not outcome.runs:
        return outcome
    problems = list(outcome.problems)
    if wishes.gate == "exact":
        # Last, since the other processes of a run wait for whatever comes before it.
        problems += _other_fingerprint(checkpoint, golden)
    notes = [
        *([_OWN] if golden.generator.own else ()),
        *_tokenizer(checkpoint, golden.source.tokenizer, "golden"),
        *outcome.notes,
        *used(unseen_rows(checkpoint, (p.prompt for p in golden.prompts))),
        *golden.notes,
    ]
    return replace(outcome, problems=tuple(problems), notes=tuple(notes))


def _other_fingerprint(checkpoint: Checkpoint, golden: Golden) -> list[str]:
    """What logits do not show: that these are the very tensors."""
    wanted = golden.source.fingerprint
    if wanted is None:
        return ["the golden has no fingerprint of its model, without which nothing is exact"]
    found = fingerprint(checkpoint).digest
    if found == wanted:
        return []
    return [f"the fingerprint is {found}, and that of the golden's model {wanted}"]


def _compared(
    checkpoint: Checkpoint, golden: Golden, text: Text | None, run: Run, wishes: Wishes
) -> Outcome:
    """By logits and hidden states alone."""
    differences = tuple(config_differences(checkpoint.spec, golden.source.spec))
    problems = incomparable(checkpoint, golden)
    if problems:
        return Outcome(golden, differences=differences, problems=tuple(problems))
    comparer = Comparer(golden)
    scorer = None if text is None else Scorer(text)
    ran = _run(checkpoint, golden, comparer, text, scorer, run)
    compared = comparer.finish()
    verdict = judge(checkpoint, golden, compared, comparer.dtype, wishes, ran)
    perplexity = None if scorer is None else scorer.finish()
    problems = _perplexity_problems(perplexity, wishes)
    if not verdict.holds and excused(verdict.gate, golden.noise, verdict.overall):
        problems.append("the golden is too noisy to judge: its own noise is no less than that")
    return Outcome(
        golden=golden,
        compared=compared,
        verdict=verdict,
        perplexity=perplexity,
        differences=differences,
        problems=tuple(problems),
        runs=(ran,),
        notes=(
            *_notes(checkpoint, golden, compared),
            *([] if verdict.holds else _rounded(checkpoint, verdict.gate)),
            *remarks(verdict.gate, golden),
        ),
    )


def _rounded(checkpoint: Checkpoint, gate: Gate) -> list[str]:
    """What a model says of itself does not widen a gate; but it may explain what was found."""
    if gate.name.startswith("cast") or not merged_before(checkpoint.folder):
        return []
    return [
        f"{MANIFEST} says that a merge rounded these weights: against logits of the model before "
        "that rounding, --gate cast is meant"
    ]


def _measured(checkpoint: Checkpoint, text: Text | None, run: Run, wishes: Wishes) -> Outcome:
    """Perplexity alone."""
    assert text is not None, "something is asked for"
    scorer = Scorer(text)
    ran = _run(checkpoint, None, None, text, scorer, run)
    found = scorer.finish()
    problems = tuple(_perplexity_problems(found, wishes))
    return Outcome(perplexity=found, problems=problems, runs=(ran,))


def prompts_of(golden: Golden | None, text: Text | None) -> list[Prompt]:
    """What goes through a model in one pass."""
    return [
        *((p.prompt for p in golden.prompts) if golden else ()),
        *(text.windows if text else ()),
    ]


def _run(
    checkpoint: Checkpoint,
    golden: Golden | None,
    comparer: Observer | None,
    text: Text | None,
    scorer: Observer | None,
    run: Run,
) -> Report:
    """One pass for all prompts."""
    observers: list[tuple[int, Observer]] = []
    if golden is not None and comparer is not None:
        observers.append((len(golden.prompts), comparer))
    if text is not None and scorer is not None:
        observers.append((len(text.windows), scorer))
    return run(checkpoint, prompts_of(golden, text), Several(observers))


def _perplexity_problems(found: Perplexity | None, wishes: Wishes) -> list[str]:
    if found is None:
        return []
    if found.loss is None:
        return ["NaN or infinity among the logits of the text"]
    limit = wishes.max_perplexity
    if limit is None or (found.perplexity is not None and found.perplexity <= limit):
        return []
    return [f"perplexity {_shown(found.perplexity)}, more than {limit:g}"]


def _shown(x: float | None) -> str:
    return "beyond all bounds" if x is None else f"{x:.6g}"


_OWN = (
    "the golden is llamatools' own: good for what was before a change and after it, not for "
    "whether the forward pass is right"
)


def _tokenizer(checkpoint: Checkpoint, wanted: str | None, whose: str) -> list[str]:
    """That it is another than the one of digest `wanted`."""
    words, trouble = find_words(checkpoint)
    out = list(trouble)
    if words is not None and wanted is not None and words.digest != wanted:
        out.append(f"the tokenizer is not the {whose}'s; prompts are compared by their ids")
    return out


def _notes(checkpoint: Checkpoint, golden: Golden, compared: Compared) -> list[str]:
    out = []
    if golden.dim not in (None, checkpoint.spec.dim):
        out.append("hidden states are of another length than the golden's: not compared")
    elif compared.unmet:
        others = len(compared.unmet) - 1
        more = f" and {others} more" if others else ""
        out.append(f"not compared, since one side lacks it: {compared.unmet[0]}{more}")
    return out


def against(
    checkpoint: Checkpoint,
    other: Checkpoint,
    prompts: Callable[[], Prompts],
    text: Text | None,
    run: Run,
    wishes: Wishes,
) -> Outcome:
    """Two checkpoints: equal by fingerprint and settings, or compared as with a golden file."""
    found, wanted = fingerprint(checkpoint), fingerprint(other)
    names = differing(found, wanted)
    differences = tuple(config_differences(checkpoint.spec, other.spec))
    words, trouble = find_words(other)
    notes = [*trouble, *_tokenizer(checkpoint, words.digest if words else None, "other")]
    if not names and not differences:
        same = Outcome() if text is None else _measured(checkpoint, text, run, wishes)
        return replace(
            same,
            identical=True,
            tensors=(),
            perplexity_of_other=same.perplexity,
            notes=(*same.notes, *notes),
        )
    problems: list[str] = []
    if names:
        (problems if wishes.gate == "exact" else notes).append(told(names))
    sizes = checkpoint.spec.vocab_size, other.spec.vocab_size
    if sizes[0] != sizes[1]:
        problems.append(f"the vocabulary has {sizes[0]:,} rows, the other's has {sizes[1]:,}")
        return Outcome(
            tensors=names, differences=differences, problems=tuple(problems), notes=tuple(notes)
        )
    golden, ran = record(other, prompts(), run, fingerprint=wanted.digest)
    outcome = _compared(checkpoint, golden, text, run, wishes)
    second = Outcome() if text is None else _measured(other, text, run, Wishes())
    unseen = unseen_rows(checkpoint, (p.prompt for p in golden.prompts))
    notes += [*outcome.notes, *unseen_differences(checkpoint, other, names, unseen), *golden.notes]
    return replace(
        outcome,
        tensors=names,
        problems=(*outcome.problems, *problems),
        perplexity_of_other=second.perplexity,
        runs=(*outcome.runs, ran, *second.runs),
        notes=tuple(dict.fromkeys(notes)),
    )


def measure_noise(golden: Golden, checkpoint: Checkpoint, run: Run) -> Noise:
    """How far a golden of ours is from the same in a wider type, which `run` computes in."""
    comparer = Comparer(golden)
    run(checkpoint, [p.prompt for p in golden.prompts], comparer)
    compared = comparer.finish()
    found = total(compared.rows, spread(compared.rows))
    return Noise(found.rms or 0.0, found.mean_kl or 0.0, found.p95_kl or 0.0, comparer.dtype)
