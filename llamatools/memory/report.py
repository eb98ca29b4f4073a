"""The report that `inspect --kv-memory --json` prints; schemas/memory.json describes it.

Every figure says whether it is exact or an estimate; an estimate says where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from llamatools.memory import estimates
from llamatools.memory.figures import Report, estimate, exact
from llamatools.memory.fit import Search, largest_batch, largest_context, verdict
from llamatools.memory.gpus import known
from llamatools.memory.kv import whole_cache
from llamatools.memory.need import Deployment, Need
from llamatools.memory.parallel import kv_heads, vocabulary
from llamatools.memory.parameters import by_group
from llamatools.memory.question import Asked, Question
from llamatools.memory.remarks import notes, warnings
from llamatools.memory.subject import Subject

SCHEMA = "urn:llamatools:memory:1"
_USUAL_CONTEXTS = (8192, 32768, 131072)


@dataclass(frozen=True)
class Answer:
    """The report, whether a limit was passed, and what computes it for other contexts."""

    report: Report
    over: bool
    deployment: Deployment


def answer(subject: Subject, question: Question) -> Answer:
    """Everything asked of the model. UsageError where it cannot be divided as asked."""
    asked = Asked(subject, question)
    contexts = question.contexts or _usual(subject.architecture.spec.context)
    needs = {c: asked.deployment.need(c, question.batch) for c in contexts}
    gate = _gate(asked, contexts, needs)
    gpus, longest = _gpus(asked, contexts, needs)
    report: Report = {
        "$schema": SCHEMA,
        "source": {"kind": subject.kind, "name": subject.name, **subject.origin},
        "model": {"title": subject.title, "official": subject.official},
        "architecture": _architecture(subject),
        "parameters": _parameters(subject),
        "weights": _weights(asked),
        "kv": _kv(asked),
        "parallel": _parallel(asked),
        "contexts": [_context(asked, c, needs[c]) for c in contexts],
        "gpus": gpus,
        "limit": gate,
        "warnings": [*subject.warnings, *warnings(asked, contexts)],
        "notes": [*subject.notes, *notes(asked, longest)],
    }
    return Answer(report, bool(gate and gate["over"]), asked.deployment)


def _usual(native: int | None) -> tuple[int, ...]:
    most = native or _USUAL_CONTEXTS[0]
    return tuple(sorted({c for c in _USUAL_CONTEXTS if c < most} | {most}))


def _architecture(s: Subject) -> Report:
    a, spec = s.architecture, s.architecture.spec
    return {
        "dim": spec.dim,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "head_dim": spec.head_dim,
        "ffn_dim": spec.ffn_dim,
        "vocab_size": spec.vocab_size,
        "context": spec.context,
        "tied": spec.tied,
        "attention": spec.attention,
        "cross_attention_layers": a.crosses,
        "windowed_layers": a.windowed,
        "window": max((k.window or 0 for k in a.layers), default=0) or None,
        "experts": a.experts.count if a.experts else None,
        "expert_layers": sum(k.experts for k in a.layers),
    }


def _parameters(s: Subject) -> Report:
    groups = by_group(s.weights)
    tag = exact if s.uncounted is None else partial(estimate, source=s.uncounted)
    return {
        "unique": tag(sum(groups.values())),
        "stored": exact(s.stored.elements) if s.stored else None,
        "by_group": {g: tag(n) for g, n in groups.items()},
    }


def _weights(asked: Asked) -> Report:
    stored, q = asked.subject.stored, asked.question
    loaded = sum(w.nbytes for w in asked.weights)
    tag = asked.bytes
    if asked.loose and stored and not q.weights_dtype:
        loaded, tag = stored.nbytes, exact
    return {
        "stored": {
            "files": stored.files,
            "total": exact(stored.nbytes),
            "by_dtype": {
                name: {"tensors": n, "bytes": exact(size)}
                for name, (n, size) in stored.by_dtype.items()
            },
        } if stored else None,
        "dtype": q.weights_dtype or _formats(asked),
        "loaded": tag(loaded),
    }  # fmt: skip


def _formats(asked: Asked) -> str:
    s = asked.subject
    if s.loose and s.stored:
        return "as stored"
    return ", ".join(dict.fromkeys(w.format.name for w in s.weights))


def _kv(asked: Asked) -> Report:
    a, engine = asked.subject.architecture, asked.question.engine
    cache = whole_cache(a, asked.kv_format, engine)
    return {
        "dtype": asked.kv_format.name,
        "engine": engine.name,
        "block": engine.block,
        "per_token": exact(cache.per_token),
        "per_token_beyond_window": exact(cache.per_token_beyond),
        "per_image": exact(cache.per_image) if a.crosses else None,
        "heads_per_kv_head": a.spec.n_heads // a.spec.n_kv_heads,
        "per_token_as_mha": exact(cache.per_token * a.spec.n_heads // a.spec.n_kv_heads),
    }


def _parallel(asked: Asked) -> Report:
    q, a, d = asked.question, asked.subject.architecture, asked.deployment
    return {
        "tp": q.tp,
        "pp": q.pp,
        "gpus": q.tp * q.pp,
        "kv_heads_per_gpu": kv_heads(a, q.tp),
        "kv_copies": max(1, q.tp // a.spec.n_kv_heads),
        "vocabulary_rows": vocabulary(a.spec.vocab_size, q.tp, q.engine),
        "stages": [
            {
                "first_layer": stage.layers.start,
                "layers": len(stage.layers),
                "weights": asked.bytes(stage.weights),
                "kv_per_token": exact(stage.cache.per_token),
            }
            for stage in d.stages
        ],
    }


def _context(asked: Asked, context: int, need: Need) -> Report:
    batch = asked.question.batch
    return {
        "context": context,
        "batch": batch,
        "kv": asked.cached(asked.deployment.kv_total(context, batch), context),
        "per_gpu": {
            "weights": asked.bytes(need.weights),
            "kv": asked.cached(need.kv, context),
            "rope": estimate(need.extra.rope, estimates.SOURCES["rope"]),
            "activations": estimate(need.extra.activations, estimates.SOURCES["activations"]),
            "runtime": estimate(need.extra.runtime, estimates.SOURCES["runtime"]),
            "total": estimate(need.total, "the sum, estimates included"),
        },
        "smallest_gpu": next((g.key for g in known().values() if verdict(need, g) == "fits"), None),
    }


def _gpus(
    asked: Asked, contexts: Sequence[int], needs: dict[int, Need]
) -> tuple[list[Report], int]:
    """Of each GPU; and the longest context on any."""
    d, batch = asked.deployment, asked.question.batch
    search = Search(d, asked.shares)
    out: list[Report] = []
    longest = 0
    for gpu in asked.question.gpus:
        fewest = search.fewest(gpu, contexts[-1], batch)
        most = largest_context(d, gpu, batch)
        longest = max(longest, most)
        by_sum = "the largest whose sum, estimates included, is within what is usable"
        out.append({
            "key": gpu.key,
            "title": gpu.title,
            "visible": estimate(gpu.visible, estimates.SOURCES["visible"]),
            "usable": estimate(gpu.usable, estimates.SOURCES["usable"]),
            "verdicts": [
                {"context": c, "verdict": verdict(needs[c], gpu)} for c in contexts
            ],
            "largest_context": estimate(most, by_sum),
            "largest_batch": [
                {"context": c, "batch": estimate(largest_batch(d, gpu, c), by_sum)}
                for c in contexts
            ],
            "fewest": {
                "context": contexts[-1],
                "tp": fewest.tp,
                "pp": fewest.pp,
                "gpus": estimate(fewest.gpus, by_sum.replace("largest", "smallest number")),
            } if fewest else None,
        })  # fmt: skip
    return out, longest


def _gate(asked: Asked, contexts: Sequence[int], needs: dict[int, Need]) -> Report | None:
    limit = asked.question.limit
    if limit is None:
        return None
    most = max(needs[c].total for c in contexts)
    return {
        "bytes": limit,
        "needed": estimate(most, "the fullest GPU at the longest context, estimates included"),
        "over": most > limit,
    }
