"""Plain golden files: what transformers, Meta's code or anything else can save in three lines.

safetensors or .npz, one prompt:

    tokens      (n,) whole numbers
    positions   (n,) whole numbers, strictly increasing; 0..n-1 where absent
    logits      (n, V) numbers: after each token, for the next

Several prompts: the same names behind a name of the prompt and a dot (`short.tokens`). Hidden
states may come along, for all prompts or none: `hidden.NAME` (n, dim), where NAME is `embedding`,
`layers.I.attention` (the residual stream after the attention of layer I), `layers.I.mlp` (after
the layer) or `norm` (after the final norm).

A safetensors file may say where it comes from, in its metadata under `provenance`: a JSON object,
in which `logits` names what made them, and the other texts are versions.
"""

from __future__ import annotations

import numpy as np

from llamatools.errors import BadInput
from llamatools.golden.model import OWN, Generator, Golden, GoldenPrompt, Hidden, Source
from llamatools.golden.points import parse_point, rank
from llamatools.golden.prompts import MAX_POSITIONS, MAX_PROMPTS, contiguous, problems_of
from llamatools.golden.sketch import sketch
from llamatools.golden.tensors import Array, Arrays
from llamatools.jsonio import SETTINGS, load_json_object
from llamatools.reference.observe import Point, Prompt
from llamatools.text import listing, safe

_HINT = "expected tokens (n,), logits (n, V) and, unless they are 0..n-1, positions (n,)"
PROVENANCE_KEY = "provenance"
UNKNOWN = Generator("unknown", {})
_ONE = "prompt"
"""The name of a prompt that has none."""


def from_plain(arrays: Arrays, where: str, provenance: str | None = None) -> Golden:
    """A plain file as a golden one, with no more on where it comes from than it says."""
    names = _prompt_names(arrays)
    problems = [] if names else [f"{where}: no tokens and logits in it"]
    if len(names) > MAX_PROMPTS:
        problems.append(f"{where}: {len(names):,} prompts; at most {MAX_PROMPTS:,} are taken")
    known: set[str] = set()
    points: dict[str, dict[Point, str]] = {}
    for prefix in names:
        points[prefix] = _hidden_names(arrays, prefix)
        known |= {prefix + part for part in ("tokens", "positions", "logits")}
        known |= set(points[prefix].values())
    unknown = sorted(set(arrays) - known)
    if unknown:
        problems.append(f"{where}: unknown names: {listing(unknown)}")
    if len({tuple(sorted(map(str, p))) for p in points.values()}) > 1:
        problems.append(f"{where}: prompts differ in the points of their hidden states")
    if problems:
        raise BadInput(problems, hint=_HINT)
    found = [_prompt(arrays, prefix, points[prefix], where, problems) for prefix in names]
    problems += _shape_problems(arrays, names, points, where)
    if problems:
        raise BadInput(problems, hint=_HINT)
    first = points[names[0]]
    dim = arrays[next(iter(first.values()))].shape[1] if first else None
    return Golden(
        vocab_size=arrays[f"{names[0]}logits"].shape[1],
        dim=dim,
        dtype=arrays[f"{names[0]}logits"].dtype,
        source=Source(),
        generator=UNKNOWN if provenance is None else _generator(provenance, where),
        noise=None,
        points=tuple(first),
        prompts=tuple(p for p in found if p is not None),
        plain=True,
    )


def _generator(text: str, where: str) -> Generator:
    said = load_json_object(text.encode(), f"{where} (provenance)", SETTINGS)
    name = said.pop("logits", None)
    if not isinstance(name, str) or not name or name == OWN:
        raise BadInput(f"{where}: provenance: logits: expected what made them")
    return Generator(name, {k: v for k, v in said.items() if isinstance(v, str)})


def _prompt_names(arrays: Arrays) -> list[str]:
    """Prefixes of prompts, the dot included, in the order of the file."""
    return [n.removesuffix("tokens") for n in arrays if n == "tokens" or n.endswith(".tokens")]


def _hidden_names(arrays: Arrays, prefix: str) -> dict[Point, str]:
    """Point -> array, in the order of the forward pass."""
    out = {}
    for name in arrays:
        if name.startswith(f"{prefix}hidden."):
            words = name.removeprefix(f"{prefix}hidden.").split(".")
            spelled = f"layer {words[1]} {words[2]}" if len(words) == 3 else words[0]
            point = parse_point(spelled)
            if point is not None and (len(words) == 1 or words[0] == "layers"):
                out[point] = name
    return dict(sorted(out.items(), key=lambda item: rank(item[0])))


def _prompt(
    arrays: Arrays, prefix: str, points: dict[Point, str], where: str, problems: list[str]
) -> GoldenPrompt | None:
    """None, and the problems noted, where it is none."""
    before = len(problems)
    name = prefix.removesuffix(".") or _ONE
    here = f"{where}: {safe(name)}"
    tokens, logits = arrays[f"{prefix}tokens"], arrays.get(f"{prefix}logits")
    n = tokens.shape[0] if tokens.shape else 0
    if not 0 < n <= MAX_POSITIONS:
        problems.append(f"{here}: {n:,} tokens; 1 to {MAX_POSITIONS:,} are taken")
        return None
    _expect(problems, tokens, f"{here}: tokens", "integer", (n,))
    positions = arrays.get(f"{prefix}positions")
    if positions is not None:
        _expect(problems, positions, f"{here}: positions", "integer", (n,))
    if logits is None:
        problems.append(f"{here}: no logits")
        return None
    v = logits.shape[1] if len(logits.shape) == 2 else 0
    _expect(problems, logits, f"{here}: logits", "float", (n, max(1, v)))
    for point, array in points.items():
        shape = arrays[array].shape
        width = shape[1] if len(shape) == 2 else 0
        _expect(problems, arrays[array], f"{here}: {point}", "float", (n, max(1, width)))
    if len(problems) > before:
        return None
    prompt = contiguous(name, tokens.read().tolist())
    if positions is not None:
        prompt = Prompt(name, prompt.tokens, tuple(positions.read().tolist()))
    problems += problems_of(prompt, v, here)
    return GoldenPrompt(prompt, None, None, logits.logits(), _hidden(arrays, points))


def _expect(
    problems: list[str], array: Array, where: str, kind: str, shape: tuple[int, ...]
) -> None:
    if array.kind != kind or array.shape != shape:
        problems.append(
            f"{where}: expected {kind}s of shape {list(shape)}, "
            f"found {array.kind} {list(array.shape)}"
        )


def _shape_problems(
    arrays: Arrays, names: list[str], points: dict[str, dict[Point, str]], where: str
) -> list[str]:
    """Vocabularies and dimensions that differ between prompts."""
    logits = [arrays[f"{p}logits"] for p in names if f"{p}logits" in arrays]
    widths = {a.shape[-1] for a in logits if a.shape}
    dims = {arrays[a].shape[-1] for p in points.values() for a in p.values() if arrays[a].shape}
    out = [] if len(widths) < 2 else [f"{where}: logits of several vocabularies"]
    return out + ([] if len(dims) < 2 else [f"{where}: hidden states of several dimensions"])


def _hidden(arrays: Arrays, points: dict[Point, str]) -> Hidden | None:
    if not points:
        return None
    sketches, rms = [], []
    for name in points.values():
        values = arrays[name].read()
        sketches.append(sketch(values))
        rms.append(np.sqrt(np.square(values).mean(axis=1)))
    return Hidden(np.stack(sketches), np.stack(rms))
