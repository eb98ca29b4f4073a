"""The JSON in a golden file's metadata, written and read; schemas/golden.json describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

from llamatools.dtypes import BY_NAME
from llamatools.errors import BadInput
from llamatools.golden import sketch
from llamatools.golden.model import Generator, Golden, Noise, Source
from llamatools.golden.points import in_order, parse_point
from llamatools.golden.prompts import MAX_PROMPTS
from llamatools.jsonfields import Fields
from llamatools.reference.observe import Point
from llamatools.spec import ModelSpec, RopeScaling
from llamatools.text import listing, safe

SCHEMA = "urn:llamatools:golden:1"
DTYPES = ("float64", "float32", "bfloat16", "float16")
_MAX_POINTS = 100_000
_MAX_TEXT = 10_000


def to_json(golden: Golden) -> dict[str, object]:
    source = golden.source
    return {
        "$schema": SCHEMA,
        "vocab_size": golden.vocab_size,
        "dim": golden.dim,
        "dtype": golden.dtype,
        "sketch": {"kind": sketch.KIND, "columns": sketch.COLUMNS},
        "points": [str(p) for p in golden.points],
        "prompts": [
            {"name": p.prompt.name, "positions": len(p.prompt.tokens)} for p in golden.prompts
        ],
        "model": {
            "title": source.title,
            "config": source.spec.to_json() if source.spec else None,
            "fingerprint": source.fingerprint,
            "tokenizer": source.tokenizer,
            "weights": source.weights,
        },
        "generator": {
            "name": golden.generator.name,
            "versions": dict(golden.generator.versions),
        },
        "noise": asdict(golden.noise) if golden.noise else None,
        "notes": list(golden.notes),
    }


_KEYS = frozenset({
    "$schema", "vocab_size", "dim", "dtype", "sketch", "points", "prompts", "model", "generator",
    "noise", "notes",
})  # fmt: skip


class Document:
    """A golden file's JSON, held to its schema. BadInput names everything that is wrong."""

    def __init__(self, data: dict[str, object], where: str) -> None:
        self._where = where
        self._problems: list[str] = []
        top = self._object(data, "golden", _KEYS)
        self._expect(data.get("$schema") == SCHEMA, f"$schema is not {SCHEMA}")
        known = {"kind": sketch.KIND, "columns": sketch.COLUMNS}
        self._expect(data.get("sketch") == known, "sketches of another kind than is known here")
        self.vocab_size = top.count("vocab_size") or 0
        self.dim = top.count("dim")
        self.dtype = top.text("dtype") or ""
        self._expect(self.dtype in DTYPES, f"dtype is none of {', '.join(DTYPES)}")
        self.points = self._points(data.get("points"))
        self._expect((self.dim is None) == (not self.points), "dim and points go together")
        self.prompts = self._prompts(data.get("prompts"))
        self.source = self._source(top.mapping("model"))
        self.generator = self._generator(top.mapping("generator"))
        self.noise = self._noise(top.mapping("noise"))
        self.notes = self._texts(data.get("notes"), "notes")
        top.require(vocab_size=self.vocab_size or None)
        self._problems += top.problems
        if self._problems:
            raise BadInput([f"{where}: {p.removeprefix(f'{where}: ')}" for p in self._problems])

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._problems.append(otherwise)

    def _object(self, data: Mapping[str, object], what: str, keys: frozenset[str]) -> Fields:
        missing, unknown = keys - data.keys(), data.keys() - keys
        self._expect(not missing, f"{what} lacks {listing(sorted(missing))}")
        self._expect(not unknown, f"{what} has unknown keys: {listing(sorted(unknown))}")
        return Fields(data, self._where)

    def _texts(self, value: object, what: str) -> tuple[str, ...]:
        if isinstance(value, list) and all(
            isinstance(t, str) and len(t) <= _MAX_TEXT for t in value
        ):
            return tuple(value)
        self._problems.append(f"{what}: expected an array of strings")
        return ()

    def _points(self, value: object) -> tuple[Point, ...]:
        names = self._texts(value, "points")
        found = [parse_point(n) for n in names[:_MAX_POINTS]]
        points = tuple(p for p in found if p is not None)
        self._expect(
            len(points) == len(names) and in_order(points),
            "points: not the names of points in the order of a forward pass",
        )
        return points

    def _prompts(self, value: object) -> tuple[tuple[str, int], ...]:
        """Names and lengths."""
        out = []
        items = value if isinstance(value, list) else []
        for item in items[:MAX_PROMPTS]:
            if not isinstance(item, dict):
                continue
            one = self._object(item, "a prompt", frozenset({"name", "positions"}))
            name, positions = one.text("name"), one.count("positions")
            self._problems += one.problems
            if name is not None and positions is not None and len(name) <= _MAX_TEXT:
                out.append((name, positions))
        self._expect(
            len(out) == len(items) and len({n for n, _ in out}) == len(out) > 0,
            f"prompts: expected 1 to {MAX_PROMPTS:,} of different names, each with its positions",
        )
        return tuple(out)

    def _source(self, data: dict[str, object] | None) -> Source:
        if data is None:
            self._problems.append("model is missing")
            return Source()
        keys = frozenset({"title", "config", "fingerprint", "tokenizer", "weights"})
        f = self._object(data, "model", keys)
        config, title, weights = f.mapping("config"), f.text("title"), f.text("weights")
        self._expect(weights is None or weights in BY_NAME, "model: weights of an unknown type")
        digests = f.text("fingerprint"), f.text("tokenizer")
        self._expect(all(d is None or _is_digest(d) for d in digests), "model: not a digest")
        self._problems += f.problems
        spec = None if config is None else self._spec(config)
        return Source(title, spec, *digests, weights)

    def _spec(self, data: dict[str, object]) -> ModelSpec | None:
        f = self._object(data, "config", frozenset(x.name for x in fields(ModelSpec)))
        counts = {n: f.count(n) for n in _COUNTS}
        numbers = {n: f.number(n) for n in ("norm_eps", "rope_theta")}
        flags = {n: f.flag(n) for n in ("tied", "attention_bias", "mlp_bias")}
        f.require(**counts, **numbers, **flags)
        scaling = f.mapping("rope_scaling")
        rope = None if scaling is None else self._scaling(scaling)
        context = f.count("context")
        self._problems += f.problems
        if f.problems:
            return None
        if self.vocab_size != counts["vocab_size"]:
            self._problems.append("config: vocab_size is not that of the logits")
        return ModelSpec(rope_scaling=rope, context=context, **counts, **numbers, **flags)  # type: ignore[arg-type]

    def _scaling(self, data: dict[str, object]) -> RopeScaling | None:
        f = self._object(data, "rope_scaling", frozenset(x.name for x in fields(RopeScaling)))
        kind, factor = f.text("kind"), f.number("factor")
        low, high = f.number("low_freq_factor"), f.number("high_freq_factor")
        context = f.count("original_context")
        f.require(kind=kind, factor=factor)
        self._problems += f.problems
        return None if f.problems else RopeScaling(kind or "", factor or 0.0, low, high, context)

    def _generator(self, data: dict[str, object] | None) -> Generator:
        f = self._object(data or {}, "generator", frozenset({"name", "versions"}))
        name, versions = f.text("name"), f.mapping("versions") or {}
        self._problems += f.problems
        self._texts(list(versions.values()), "versions")
        self._expect(bool(name), "generator has no name")
        return Generator(name or "", {k: str(v) for k, v in versions.items()})

    def _noise(self, data: dict[str, object] | None) -> Noise | None:
        if data is None:
            return None
        f = self._object(data, "noise", frozenset(x.name for x in fields(Noise)))
        numbers = [data.get(n) for n in ("rms", "mean_kl", "p95_kl")]
        wider = f.text("wider")
        if wider not in DTYPES or not all(
            isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in numbers
        ):
            self._problems.append("noise: expected numbers, at least 0, and a type")
            return None
        rms, mean_kl, p95_kl = (float(str(n)) for n in numbers)
        return Noise(rms, mean_kl, p95_kl, wider)


_COUNTS = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def shown_name(name: str) -> str:
    """A prompt's name, from a file, as it may be printed."""
    return safe(name, 60)
