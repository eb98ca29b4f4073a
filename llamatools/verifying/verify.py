"""Verification from end to end: one forward pass, held against a golden file or another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llamatools.checkpoint import Checkpoint
from llamatools.fingerprints import fingerprint
from llamatools.golden.create import Report, Run, record
from llamatools.golden.model import Golden, Noise
from llamatools.golden.prompts import Prompts, find_words
from llamatools.reference.observe import Observer, Prompt
from llamatools.verifying.causes import config_differences
from llamatools.verifying.compare import Compared, Comparer
from llamatools.verifying.perplexity import Perplexity, Scorer, Several, Text
from llamatools.verifying.totals import spread, total
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
    differences = tuple(config_differences(checkpoint.spec, golden.source.spec))
    problems = incomparable(checkpoint, golden)
    if problems:
        return Outcome(golden, differences=differences, problems=tuple(problems))
    comparer = Comparer(golden)
    scorer = None if text is None else Scorer(text)
    ran = _run(checkpoint, golden, comparer, text, scorer, run)
    compared = comparer.finish()
    perplexity = None if scorer is None else scorer.finish()
    return Outcome(
        golden=golden,
        compared=compared,
        verdict=judge(checkpoint, golden, compared, comparer.dtype, wishes),
        perplexity=perplexity,
        differences=differences,
        problems=tuple(_perplexity_problems(perplexity, wishes)),
        runs=(ran,),
        notes=tuple(_notes(checkpoint, golden, compared)),
    )


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


def _notes(checkpoint: Checkpoint, golden: Golden, compared: Compared) -> list[str]:
    out = []
    if golden.generator.own:
        out.append(
            "the golden is llamatools' own: good for what was before a change and after it, not "
            "for whether the forward pass is right"
        )
    words, trouble = find_words(checkpoint)
    out += trouble
    told = golden.source.tokenizer
    if words is not None and told is not None and words.digest != told:
        out.append("the tokenizer is not the golden's; prompts are compared by their ids")
    if golden.dim not in (None, checkpoint.spec.dim):
        out.append("hidden states are of another length than the golden's: not compared")
    elif compared.unmet:
        others = len(compared.unmet) - 1
        more = f" and {others} more" if others else ""
        out.append(f"not compared, since one side lacks it: {compared.unmet[0]}{more}")
    return [*out, *golden.notes]


def against(
    checkpoint: Checkpoint,
    other: Checkpoint,
    prompts: Callable[[], Prompts],
    text: Text | None,
    run: Run,
    wishes: Wishes,
) -> Outcome:
    """Two checkpoints: equal by fingerprint and settings, or compared as with a golden file."""
    digests = [fingerprint(c).digest for c in (checkpoint, other)]
    differences = tuple(config_differences(checkpoint.spec, other.spec))
    if digests[0] == digests[1] and not differences:
        same = Outcome() if text is None else _measured(checkpoint, text, run, wishes)
        return replace(same, identical=True, perplexity_of_other=same.perplexity)
    sizes = checkpoint.spec.vocab_size, other.spec.vocab_size
    if sizes[0] != sizes[1]:
        problem = f"the vocabulary has {sizes[0]:,} rows, the other's has {sizes[1]:,}"
        return Outcome(differences=differences, problems=(problem,))
    golden, ran = record(other, prompts(), run, fingerprint=digests[1])
    outcome = verify(checkpoint, golden, text, run, wishes)
    second = Outcome() if text is None else _measured(other, text, run, Wishes())
    return replace(
        outcome,
        perplexity_of_other=second.perplexity,
        runs=(*outcome.runs, ran, *second.runs),
        notes=golden.notes,
    )


def measure_noise(golden: Golden, checkpoint: Checkpoint, run: Run) -> Noise:
    """How far a golden of ours is from the same in a wider type, which `run` computes in."""
    comparer = Comparer(golden)
    run(checkpoint, [p.prompt for p in golden.prompts], comparer)
    compared = comparer.finish()
    found = total(compared.rows, spread(compared.rows))
    return Noise(found.rms or 0.0, found.mean_kl or 0.0, found.p95_kl or 0.0, comparer.dtype)
