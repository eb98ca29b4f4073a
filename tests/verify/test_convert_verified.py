"""Output that is read back, and run, before it gets its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_transformers import make_golden
from jsonschema import Draft202012Validator
from sharp import Sharp, write
from support.calls import Called, call, leftovers, tree
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

import llamatools
from llamatools import conversion, readback
from llamatools.engine import execute, work
from llamatools.errors import UsageError
from llamatools.golden.write import write_golden
from llamatools.plan import build

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "golden"
BASE, LOGITS = GOLDEN / "llama3-gqa" / "mp2", GOLDEN / "llama3-gqa" / "golden.safetensors"
ADAPTER = GOLDEN / "llama3-gqa-lora"
MERGED = ADAPTER / "golden.safetensors"
SCHEMA = json.loads((ROOT / "schemas" / "manifest.json").read_text())
SMALL = Sharp("small", layers=2, context=256, scaling=None)
CPU = ("--device", "cpu")


def check(document: object) -> list[str]:
    return [e.message for e in Draft202012Validator(SCHEMA).iter_errors(document)]


def _convert(source: Path, out: Path, *words: object) -> Called:
    return call("convert", source, out, *words)


def _refused(done: Called, out: Path, *words: str) -> None:
    """Exit 1, every word said, and nothing left."""
    assert done.code == 1, (done.out, done.err)
    for word in words:
        assert word in done.err
    assert "nothing was published" in done.err
    assert leftovers(out) == []


# --- read back ------------------------------------------------------------------------------------


WAYS: dict[str, tuple[object, ...]] = {
    "hf": ("--to", "hf"),
    "hf in files": ("--to", "hf", "--max-shard-size", "5kB"),
    "bin": ("--to", "hf", "--weights", "bin"),
    "meta": ("--to", "meta"),
    "meta in 4": ("--to", "meta", "--shards", 4),  # more than there are kv heads
    "meta safetensors": ("--to", "meta", "--weights", "safetensors"),
    "safetensors": ("--to", "safetensors"),
    "fp16": ("--to", "hf", "--dtype", "fp16"),
    "little memory": ("--to", "meta", "--max-memory", "64KiB", "--jobs", 1),
}
MODELS = [Tiny(), Tiny(style="llama-3.2", tied=True), Tiny(style="llama-2", attention_bias=True)]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_what_was_written_is_read_back(model: Tiny, way: str, tmp_path: Path) -> None:
    source = write_meta(model, tmp_path / "in", 2)
    if model.attention_bias and "meta" in way:  # no place for them in params.json
        source = write_hf(model, tmp_path / "hf")
    plain = _convert(source, tmp_path / "plain", *WAYS[way], "--json")
    done = _convert(source, tmp_path / "out", *WAYS[way], "--verify", "--json")
    if plain.code == 3:
        assert done.code == 3, "not representable, verified or not"
        return
    assert done.code == 0, done.err
    found = done.json["verified"]
    assert found["files"] == len(list((tmp_path / "out").iterdir()))
    assert found["fingerprint"] == llamatools.fingerprint(tmp_path / "out").digest
    if done.json["lossless"]:
        assert found["fingerprint"] == llamatools.fingerprint(source).digest
    assert found["golden"] is None
    assert check(done.json) == [] == check(plain.json)
    assert "verified" not in plain.json
    assert tree(tmp_path / "out") == tree(tmp_path / "plain"), "looking at it changes nothing"


def test_it_says_so(hf: Path, tmp_path: Path) -> None:
    done = _convert(hf, tmp_path / "a", "--to", "meta", "--verify")
    assert "read back  3 files and 21 tensors, as they were written" in done.out
    assert "read back: 100% of" in done.err
    assert "read back" not in _convert(hf, tmp_path / "b", "--to", "meta").out
    done = _convert(hf, tmp_path / "c", "--to", "meta", "--verify", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


Damage = Callable[[Path], None]


def _flip(name: str, where: float) -> Damage:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(where * len(data))] ^= 1
        (folder / name).write_bytes(data)

    return damage


def _damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    """After all of the weights were written, and digested, something happens to the disk."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        outcome = execute.execute(*arguments, **named)
        damage(arguments[2])
        return outcome

    monkeypatch.setattr(work, "execute", wrapped)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("way", "name"),
    [
        ("hf", "model.safetensors"),
        ("bin", "pytorch_model.bin"),
        ("meta", "consolidated.00.pth"),
        ("meta in 4", "consolidated.03.pth"),
        ("meta safetensors", "consolidated.safetensors"),
    ],
)
def test_a_byte_that_differs_on_the_disk(
    way: str, name: str, where: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _damaged(monkeypatch, _flip(name, where))
    done = _convert(BASE, out, *WAYS[way], "--verify")
    _refused(done, out, f"{name}: read back with other bytes than were written", ".weight: ")
    assert _convert(BASE, out, *WAYS[way]).code == 0, "only --verify looks"


DAMAGE: dict[str, tuple[Damage, str]] = {
    "header": (_flip("model.safetensors", 0.0), "model.safetensors"),
    "config": (_flip("config.json", 0.5), "config.json: read back with other bytes"),
    "cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"") and None, "other bytes",
    ),
    "gone": (lambda folder: (folder / "config.json").unlink(), "config.json: is not there"),
    "a stranger": (
        lambda folder: (folder / "strange").write_bytes(b"1") and None, "strange: nobody wrote it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_other_damage(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    damage, word = DAMAGE[what]
    _damaged(monkeypatch, damage)
    _refused(_convert(BASE, out, "--to", "hf", "--verify"), out, word)


def test_a_manifest_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = conversion.write_document

    def wrong(path: Path, data: bytes) -> None:
        real(path, data.replace(b"Llama 3", b"Llama 4") if path.name == "llamatools.json" else data)

    monkeypatch.setattr(conversion, "write_document", wrong)
    out = tmp_path / "out"
    done = _convert(BASE, out, "--to", "hf", "--verify")
    _refused(done, out, "llamatools.json: read back with other bytes")


def test_right_bytes_in_a_wrong_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are taken before rows are put in the layout's order: they cannot tell."""

    def unpermuted(halves: Any, pairs: Any, width: int) -> None:
        pairs[...] = halves

    monkeypatch.setattr(execute, "pairs_from_halves", unpermuted)
    out = tmp_path / "out"
    done = _convert(BASE, out, "--to", "meta", "--verify")
    _refused(
        done, out, *(f"layers.{i}.attention.{n}.weight: read back" for i in (0, 1) for n in "qk")
    )
    assert "attention.v" not in done.err and "consolidated" not in done.err
    assert _convert(BASE, out, "--to", "meta").code == 0, "only --verify looks"


def test_what_is_refused_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _damaged(monkeypatch, _flip("model.safetensors", 0.5))
    done = _convert(BASE, tmp_path / "out", "--to", "hf", "--verify", "--json")
    assert done.json["error"]["kind"] == "check-failed"
    assert done.json["error"]["exit_code"] == done.code == 1


def test_force_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert _convert(BASE, out, "--to", "meta").code == 0
    before = tree(out)
    _damaged(monkeypatch, _flip("model.safetensors", 0.5))
    assert _convert(BASE, out, "--to", "hf", "--verify", "--force").code == 1
    assert tree(out) == before
    assert leftovers(out) == ["out"]


def test_stopped_while_reading_back(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(readback, "fingerprint", stop)
        done = _convert(hf, out, "--to", "meta", "--verify")
    assert done.code == 130 and "1 of 1 files are finished, and kept" in done.err
    assert leftovers(out) == [".out.llamatools"]
    assert "resuming: 1 of 1" in _convert(hf, out, "--to", "meta", "--verify").err
    assert leftovers(out) == ["out"]


def _with_words(folder: Path) -> None:
    """A model with a tokenizer beside it."""
    write(Sharp("words", layers=1, scaling=None, vocab=512), folder)
    data = (GOLDEN / "tokenizer" / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ("merge-lora", BASE, ADAPTER),
        ("tokenizer", "swap", "model", GOLDEN / "tokenizer"),
        ("apply-delta", BASE, "delta"),
    ],
    ids=lambda words: words[0],
)
def test_other_commands_that_write_models(
    words: tuple[object, ...], damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[object, Path] = {"model": tmp_path / "model", "delta": tmp_path / "delta"}
    if "model" in words:
        _with_words(made["model"])
    if "delta" in words:
        tuned = tmp_path / "tuned"
        assert call("merge-lora", BASE, ADAPTER, tuned, "--to", "hf", "-q").code == 0
        assert call("make-delta", BASE, tuned, made["delta"], "-q").code == 0
    if damaged:
        _damaged(monkeypatch, _flip("model.safetensors", 0.7))
    out = tmp_path / "x"
    arguments = [made.get(w, w) for w in words]
    done = call(*arguments, out, "--to", "hf", "--verify", "--json")
    if damaged:
        _refused(done, out, ".weight: read back as BF16")
    else:
        assert done.code == 0, done.err
        assert done.json["verified"]["fingerprint"] == llamatools.fingerprint(out).digest


def test_the_library_reads_back(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with llamatools.open_checkpoint(hf) as opened:
        prepared = llamatools.prepare(opened, tmp_path / "a", llamatools.Options(to="hf"))
        found = llamatools.run(llamatools.verified(prepared))
        assert found["verified"] == {
            "fingerprint": found["fingerprint"], "files": 3, "tensors": 21, "golden": None,
        }  # fmt: skip
        prepared = llamatools.prepare(opened, tmp_path / "b", llamatools.Options(to="hf"))
        _damaged(monkeypatch, _flip("model.safetensors", 0.5))
        with pytest.raises(llamatools.LlamatoolsError, match="weight: read back as"):
            llamatools.run(llamatools.verified(prepared))
    assert leftovers(tmp_path / "b") == []


# --- run against a golden file --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["hf", "meta in 4", "bin"])
def test_a_conversion_holds(way: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _convert(BASE, out, *WAYS[way], "--golden", LOGITS, *CPU, "--json")
    assert done.code == 0, done.err
    found = done.json["verified"]["golden"]
    assert found["gate"]["name"] == "fp32" and found["top1"] == 1.0
    assert [c["holds"] for c in found["checks"]] == [True] * 4
    assert check(done.json) == []
    assert "verified" not in json.loads((out / "llamatools.json").read_text())
    for key in found:
        assert check(_without(done.json, key)), key


def _without(report: dict[str, Any], key: str) -> dict[str, Any]:
    out = copy.deepcopy(report)
    del out["verified"]["golden"][key]
    return out


def test_the_verdict_is_shown(tmp_path: Path) -> None:
    done = _convert(BASE, tmp_path / "out", "--to", "hf", "--golden", LOGITS, *CPU)
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "golden.safetensors: holds" in text
    assert "gate fp32 (golden in float32, run in float32)" in text
    assert "(limit 2e-05), mean KL" in text


def _never(path: Path) -> None:
    raise AssertionError(f"{path} was begun")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
def test_a_golden_of_another_vocabulary_fails_before_the_first_byte(
    dry: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "occupied", _never)
    out, other = tmp_path / "out", GOLDEN / "llama3-mqa" / "golden.safetensors"
    done = _convert(BASE, out, "--to", "hf", "--golden", other, *CPU, *dry)
    _refused(done, out, "the vocabulary has 288 rows, the golden's has 160")


@pytest.mark.parametrize("force", [False, True])
def test_a_golden_of_another_model_of_these_sizes(force: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if force:
        assert _convert(BASE, out, "--to", "hf").code == 0
    before = tree(out)
    words = ("--to", "meta", "--golden", MERGED, *CPU, *(["--force"] if force else []))
    done = _convert(BASE, out, *words)
    assert done.code == 1
    for word in ("rms(diff)/std(logits) is", "first bad: ", "nothing was published"):
        assert word in done.err
    assert tree(out) == before and leftovers(out) == (["out"] if force else [])


def test_what_no_fingerprint_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that is wrong as it is written: every byte comes back, and every tensor."""
    real = build.hf_documents

    def wrong(*arguments: Any) -> dict[str, bytes]:
        documents = dict(real(*arguments))
        config = json.loads(documents["config.json"])
        config["rope_theta"] = 10000.0
        config.pop("rope_parameters", None)
        return {**documents, "config.json": json.dumps(config).encode()}

    source = write(SMALL, tmp_path / "in")
    write_golden(make_golden(source), tmp_path / "g")
    monkeypatch.setattr(build, "hf_documents", wrong)
    assert _convert(source, tmp_path / "a", "--to", "hf", "--verify").code == 0
    out = tmp_path / "b"
    done = _convert(source, out, "--to", "hf", "--golden", tmp_path / "g", *CPU)
    _refused(done, out, "first bad: layer 0 attention (right until embedding)", "differs: rope")


def test_damage_is_found_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _damaged(monkeypatch, _flip("model.safetensors", 0.5))
    out = tmp_path / "out"
    done = _convert(BASE, out, "--to", "hf", "--golden", LOGITS, *CPU)
    _refused(done, out, "read back with other bytes")
    assert "rms" not in done.err and "verify:" not in done.err


# Merges, whose golden is the unmerged model's.


@pytest.mark.parametrize(
    ("dtype", "gate"), [("keep", "cast"), ("fp16", "cast-fp16"), ("fp32", "fp32")], ids=str
)
def test_a_merge_is_what_it_was_unmerged(dtype: str, gate: str, tmp_path: Path) -> None:
    words = ("--to", "hf", "--dtype", dtype, "--golden", MERGED, *CPU, "--json")
    done = call("merge-lora", BASE, ADAPTER, tmp_path / "out", *words)
    assert done.code == 0, done.err
    assert done.json["verified"]["golden"]["gate"]["name"] == gate
    assert check(done.json) == []


@pytest.mark.parametrize("what", ["the base's golden", "half of the adapter", "merged twice"])
def test_a_merge_that_is_another(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    golden = LOGITS if what == "the base's golden" else MERGED
    more = {"half of the adapter": ("--weights", "0.5")}.get(what, ())
    adapters = [ADAPTER] * (2 if what == "merged twice" else 1)
    again = ("--allow-again",) if what == "merged twice" else ()
    words = ("--to", "meta", "--golden", golden, *CPU, *more, *again)
    _refused(call("merge-lora", BASE, *adapters, out, *words), out, "rms(diff)/std(logits) is")


# Gates by what was done.


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """In fp32, and no narrower type holds its values."""

    def spread(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        config["torch_dtype"] = "float32"
        for name, t in tensors.items():
            generator = torch.Generator().manual_seed(len(name))
            noise = torch.rand(t.shape, generator=generator) - 0.5
            tensors[name] = t.float() * (1 + noise * 2**-8)

    return write(SMALL, tmp_path / "wide", spread)


def test_a_cast_that_rounds_is_judged_as_one(wide: Path, tmp_path: Path) -> None:
    write_golden(make_golden(wide), tmp_path / "g")
    words = ("--to", "hf", "--golden", tmp_path / "g", *CPU, "--json")
    gates = {"keep": "fp32", "fp32": "fp32", "fp16": "cast-fp16", "bf16": "cast"}
    for dtype, gate in gates.items():
        done = _convert(wide, tmp_path / dtype, *words, "--dtype", dtype)
        assert done.code == 0, (dtype, done.err)
        assert done.json["verified"]["golden"]["gate"]["name"] == gate, dtype


def test_a_cast_that_rounds_nothing_is_held_to_the_narrow_gate(tmp_path: Path) -> None:
    for dtype in ("fp16", "fp32"):
        words = ("--to", "hf", "--dtype", dtype, "--golden", LOGITS, *CPU, "--json")
        done = _convert(BASE, tmp_path / dtype, *words)
        assert done.json["verified"]["golden"]["gate"]["name"] == "fp32"


def test_a_golden_of_the_very_output_is_held_to_the_narrow_gate(wide: Path, tmp_path: Path) -> None:
    cast = tmp_path / "cast"
    assert _convert(wide, cast, "--to", "hf", "--dtype", "fp16").code == 0
    assert call("golden", "create", cast, "-o", tmp_path / "g", *CPU).code == 0
    words = ("--to", "hf", "--dtype", "fp16", "--golden", tmp_path / "g", *CPU, "--json")
    done = _convert(wide, tmp_path / "out", *words)
    assert done.json["verified"]["golden"]["gate"]["name"] == "fp32"
    assert any("llamatools' own" in n for n in done.json["verified"]["golden"]["notes"])


# --- wrong usage, and nothing written -------------------------------------------------------------


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    words = (tmp_path / "out", "--to", "hf", "--golden", LOGITS, *CPU, "--dry-run")
    done = _convert(BASE, *words)
    assert done.code == 0 and "nothing was written" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
def test_what_is_refused_before_the_first_byte(
    dry: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "occupied", _never)
    (tmp_path / "broken").write_bytes(b"nothing")
    for code, words in (
        (2, ("--golden", LOGITS, "--no-verify")),
        (2, ("--golden", LOGITS, "--device", "tpu")),
        (2, ("--golden", LOGITS, "--device", "cuda:99")),
        (3, ("--golden", tmp_path / "none")),
        (3, ("--golden", tmp_path / "broken")),
        (3, ("--golden", BASE / "consolidated.00.pth")),
    ):
        done = _convert(BASE, tmp_path / "out", "--to", "hf", *words, *dry)
        assert done.code == code, (words, done.err)
        assert done.err and not (tmp_path / "out").exists()


def test_a_golden_that_the_output_would_replace(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    golden = out / "golden.safetensors"
    golden.write_bytes(LOGITS.read_bytes())
    done = _convert(BASE, out, "--to", "hf", "--golden", golden, "--force")
    assert done.code == 2 and "lies in the output" in done.err
    assert golden.exists()


def test_several_processes_do_not_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamatools.verifying.written import fitting_golden

    with llamatools.open_checkpoint(BASE) as opened:
        prepared = llamatools.prepare(opened, tmp_path / "out", llamatools.Options(to="hf"))
        settings = llamatools.Settings(device="cpu")
        assert fitting_golden(LOGITS, prepared, settings).vocab_size == 288
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("RANK", "0"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match="together"):
            fitting_golden(LOGITS, prepared, settings)


def test_no_verify_compares_nothing(tmp_path: Path) -> None:
    """As ever: three states of one switch."""
    _with_words(tmp_path / "in")
    source = tmp_path / "meta"
    assert _convert(tmp_path / "in", source, "--to", "meta", "-q").code == 0
    for words, compared, read in (((), True, False), (("--verify",), True, True),
                                  (("--no-verify",), False, False)):  # fmt: skip
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        done = _convert(source, out, "--to", "hf", *words, "--json")
        assert done.code == 0, done.err
        assert (done.json["tokenizer"]["texts_compared"] > 0) is compared
        assert ("verified" in done.json) is read


def test_xor_files_are_held_against_their_sums_anyway(tmp_path: Path) -> None:
    (tmp_path / "delta").mkdir()
    (tmp_path / "delta" / "model.bin.0123.enc").write_bytes(b"1")
    done = call("apply-delta", BASE, tmp_path / "delta", tmp_path / "out", "--verify")
    assert done.code == 2
