"""Golden files hold what was put into them, and nothing that is broken is taken for one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from judging import Make, judged
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sharp import Sharp

from llamatools.errors import BadInput
from llamatools.golden.digests import digest
from llamatools.golden.document import to_json
from llamatools.golden.model import GoldenPrompt, InMemory, Noise
from llamatools.golden.read import check_logits, open_golden
from llamatools.golden.write import write_golden

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "golden.json").read_text())
SMALL = Sharp("small", layers=2, context=256, scaling=None)


@pytest.fixture
def file(make: Make, tmp_path: Path) -> Path:
    golden = replace(make(SMALL).golden, noise=Noise(1e-6, 0.0, 0.0, "float64"))
    write_golden(golden, tmp_path / "golden.safetensors")
    return tmp_path / "golden.safetensors"


def _same_prompt(a: GoldenPrompt, b: GoldenPrompt) -> None:
    assert a.prompt == b.prompt
    assert a.full is not None and b.full is not None and a.full.shape == b.full.shape
    rows = a.full.shape[0]
    assert np.array_equal(a.full.read(0, rows).astype(np.float32), b.full.read(0, rows))
    assert a.digest is not None and b.digest is not None
    for name in ("top_ids", "top_values", "lse", "mean", "square"):
        assert np.array_equal(getattr(a.digest, name), getattr(b.digest, name)), name
    assert np.allclose(a.digest.sketch, b.digest.sketch, rtol=1e-6)
    assert a.targets is not None and np.array_equal(a.targets, b.targets)
    assert a.hidden is not None and b.hidden is not None
    assert np.allclose(a.hidden.sketch, b.hidden.sketch, rtol=1e-6)
    assert np.array_equal(a.hidden.rms, b.hidden.rms)


def test_what_is_written_is_read(file: Path, make: Make) -> None:
    made, found = make(SMALL).golden, open_golden(file)
    for name in ("vocab_size", "dim", "dtype", "source", "generator", "points", "notes"):
        assert getattr(found, name) == getattr(made, name), name
    assert found.noise == Noise(1e-6, 0.0, 0.0, "float64")
    for a, b in zip(made.prompts, found.prompts, strict=True):
        _same_prompt(a, b)


def test_the_metadata_obeys_its_schema(file: Path) -> None:
    with safe_open(file, "np") as opened:
        data = json.loads(opened.metadata()["golden"])
    assert [e.message for e in Draft202012Validator(SCHEMA).iter_errors(data)] == []
    assert data["model"]["config"]["n_layers"] == 2
    assert data["points"][:2] == ["embedding", "layer 0 attention"]


def test_the_same_golden_gives_the_same_bytes(file: Path, make: Make, tmp_path: Path) -> None:
    write_golden(open_golden(file), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_model_holds_against_its_file(file: Path, make: Make) -> None:
    assert judged(make(SMALL).folder, open_golden(file))["holds"]


def test_digests_stand_for_logits(make: Make) -> None:
    """Without full logits, rms is estimated from sketches and KL from the top logits."""
    made = make(SMALL)
    bare = replace(
        made.golden,
        prompts=tuple(
            replace(p, full=InMemory(p.full.read(p.full.shape[0] - 1, p.full.shape[0])))
            for p in made.golden.prompts
            if p.full is not None
        ),
    )
    full, estimated = (judged(made.folder, g, "bf16")["overall"] for g in (made.golden, bare))
    assert full["outside"] == 0.0 < estimated["outside"]
    for key in ("rms", "mean_kl", "p95_kl"):
        assert estimated[key] == pytest.approx(full[key], rel=0.15), key
    assert estimated["top1"] == full["top1"]


def test_float64_is_kept(tmp_path: Path, make: Make) -> None:
    golden = make(SMALL).golden
    values = np.random.default_rng(0).standard_normal((2, SMALL.vocab))
    p = golden.prompts[0]
    one = replace(p, full=InMemory(values), digest=digest(values), targets=np.array([-1.0]))
    write_golden(replace(golden, dtype="float64", prompts=(one,)), tmp_path / "g.safetensors")
    found = open_golden(tmp_path / "g.safetensors").prompts[0]
    assert found.full is not None and np.array_equal(found.full.read(0, 2), values)


# --- files that are broken ------------------------------------------------------------------------


def _rewrite(file: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the tensors and the JSON of a golden file."""
    tensors = load_file(file)
    with safe_open(file, "np") as opened:
        data = json.loads(opened.metadata()["golden"])
    change(tensors, data)
    save_file(tensors, file, metadata={"golden": json.dumps(data)})


def _put(name: str, change: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    return lambda tensors, data: tensors.__setitem__(name, change(tensors[name].copy()))


def _say(path: str, value: object) -> Callable[[Any, Any], None]:
    def change(tensors: dict[str, Any], data: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        at: Any = data
        for step in steps:
            at = at[int(step)] if isinstance(at, list) else at[step]
        if value is ...:
            del at[last]
        else:
            at[last] = value

    return change


def _with(value: float, at: tuple[int, ...]) -> Callable[[Any], Any]:
    def change(a: Any) -> Any:
        a[at] = value
        return a

    return change


BROKEN = {
    "NaN in a sketch": _put("2.sketch", _with(np.nan, (0, 0))),
    "infinity in a hidden state": _put("2.hidden", _with(np.inf, (1, 0, 0))),
    "a negative rms": _put("2.hidden.rms", _with(-1.0, (1, 0))),
    "tokens beyond the vocabulary": _put("2.tokens", _with(SMALL.vocab, (3,))),
    "a negative token": _put("2.tokens", _with(-1, (3,))),
    "positions that do not grow": _put("2.positions", _with(0, (3,))),
    "positions beyond what counts": _put("2.positions", _with(1 << 40, (7,))),
    "top ids twice": _put("2.top.ids", lambda a: a * 0),
    "top ids beyond the vocabulary": _put("2.top.ids", _with(1 << 30, (0, 0))),
    "top values that rise": _put("2.top.values", lambda a: a[:, ::-1].copy()),
    "a sum below its largest part": _put("2.lse", lambda a: a - 100),
    "a mean square below the mean": _put("2.square", lambda a: a * 0 - 1),
    "a log-probability above 0": _put("2.targets", lambda a: a * 0 + 1),
    "too few targets": _put("2.targets", lambda a: a[1:]),
    "too few tokens": _put("2.tokens", lambda a: a[1:]),
    "tokens that are no integers": _put("2.tokens", lambda a: a.astype(np.float32)),
    "another width of sketches": _put("2.sketch", lambda a: a[:, :16].copy()),
    "points missing": _put("2.hidden", lambda a: a[1:].copy()),
    "logits of another vocabulary": _put("2.logits", lambda a: a[:, 1:].copy()),
    "logits of too many rows": _put("2.logits", lambda a: np.concatenate([a, a])),
    "a tensor missing": lambda tensors, data: tensors.pop("2.lse"),
    "a tensor too many": lambda tensors, data: tensors.update(other=np.zeros(1)),
    "no schema": _say("$schema", ...),
    "another schema": _say("$schema", "urn:llamatools:golden:2"),
    "an unknown key": _say("surprise", 1),
    "no vocabulary": _say("vocab_size", 0),
    "a vocabulary beyond memory": _say("vocab_size", 1 << 39),
    "another sketch": _say("sketch", {"kind": "other", "columns": 32}),
    "an unknown type": _say("dtype", "float8"),
    "unknown points": _say("points", ["embedding", "layer 0 surprise"]),
    "points in disorder": _say("points", ["norm", "embedding"]),
    "no prompts": _say("prompts", []),
    "two prompts of one name": _say("prompts.1.name", "edges-up"),
    "positions without bounds": _say("prompts.2.positions", 1 << 39),
    "no model": _say("model", None),
    "a fingerprint that is none": _say("model.fingerprint", "abc"),
    "weights of no type": _say("model.weights", "F7"),
    "a config that lacks a key": _say("model.config.tied", ...),
    "a config of other types": _say("model.config.n_layers", "2"),
    "another vocabulary in the config": _say("model.config.vocab_size", 7),
    "no generator": _say("generator.name", ""),
    "noise that is none": _say("noise.rms", -1),
    "notes that are none": _say("notes", [1]),
    "no dim": _say("dim", None),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused(change: Callable[[Any, Any], None], file: Path) -> None:
    _rewrite(file, change)
    with pytest.raises(BadInput):
        open_golden(file)


def test_untouched_files_are_not(file: Path) -> None:
    """So that refusals above are for what was changed."""
    _rewrite(file, lambda tensors, data: None)
    check_logits(open_golden(file))


def test_nan_among_full_logits_is_refused(file: Path) -> None:
    _rewrite(file, _put("2.logits", _with(np.nan, (0, 0))))
    with pytest.raises(BadInput, match="NaN"):
        check_logits(open_golden(file))


def test_all_problems_are_reported_at_once(file: Path) -> None:
    def change(tensors: dict[str, Any], data: dict[str, Any]) -> None:
        tensors["1.tokens"] = tensors["1.tokens"][1:]
        del tensors["2.lse"]

    _rewrite(file, change)
    with pytest.raises(BadInput) as caught:
        open_golden(file)
    text = "\n".join(caught.value.problems)
    assert "1.tokens" in text and "2.lse" in text


@pytest.mark.parametrize(
    "metadata", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 200, '{"x": NaN}']
)
def test_metadata_that_is_no_json(metadata: str, file: Path) -> None:
    save_file(load_file(file), file, metadata={"golden": metadata})
    with pytest.raises(BadInput):
        open_golden(file)


def test_files_cut_short_anywhere(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for size in (0, 1, 7, 8, 9, header - 1, header, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(BadInput):
            open_golden(tmp_path / "cut")


def test_json_of_a_golden_has_every_key(make: Make) -> None:
    assert set(to_json(make(SMALL).golden)) == set(SCHEMA["required"])
