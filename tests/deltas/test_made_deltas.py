"""Deltas of make-delta: there and back bit for bit, and every damage found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from delta_kit import BASE, EMBEDDING, fingerprints, holding, with_numbers, write
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.calls import call, edit_json, leftovers, tree
from support.tiny import Tiny
from support.tiny_files import read_hf, unequal
from support.vocabularies import sentencepiece_model

NAME = "llamatools-delta.json"
KINDS = ("add", "xor")


def typed(dtype: torch.dtype, **changes: object) -> Tiny:
    return Tiny(**{"style": "llama-1", "kv_heads": 8, "vocab": 40, "dtype": dtype, **changes})  # type: ignore[arg-type]


def tuned(base: Tiny, seed: int = 7, scale: float = 1e-3, **changes: object) -> Tiny:
    """A model near another, as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    near = {
        n: (t.float() + torch.randn(t.shape, generator=generator) * scale).to(t.dtype)
        for n, t in base.truth.items()
    }
    return holding(base, near)


def make(base: Path, target: Path, out: Path, *words: object) -> dict[str, object]:
    done = call("make-delta", base, target, out, *words, "--json")
    assert done.code == 0, done.err
    assert done.json == json.loads((out / NAME).read_text())
    return done.json  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("layouts", [("hf", "hf"), ("meta2", "hf"), ("hf", "meta2")], ids=str)
def test_there_and_back(
    kind: str, dtype: torch.dtype, layouts: tuple[str, str], tmp_path: Path
) -> None:
    base = with_numbers(typed(dtype), 1)
    target = tuned(base)
    b = write(base, tmp_path / "base", layouts[0])
    t = write(target, tmp_path / "target", layouts[1])
    report = make(b, t, tmp_path / "delta", "--kind", kind)
    assert report["inexact"] == 0
    assert report["values"] == sum(x.numel() for x in target.truth.values())
    assert report["base"]["fingerprint"] == call("fingerprint", b).out.split()[0]  # type: ignore[index]
    assert report["target"]["fingerprint"] == call("fingerprint", t).out.split()[0]  # type: ignore[index]
    for to in ("hf", "meta"):
        done = call("apply-delta", b, tmp_path / "delta", tmp_path / to, "--to", to)
        assert done.code == 0, done.err
    assert unequal(read_hf(tmp_path / "hf"), target.truth) == []
    assert len(fingerprints(t, tmp_path / "hf", tmp_path / "meta")) == 1


def test_an_additive_delta_is_a_plain_folder(tmp_path: Path) -> None:
    """Others' scripts add its tensors to the base's, by name."""
    base = with_numbers(BASE, 1)
    target = tuned(base)
    b, t = write(base, tmp_path / "base", "meta2"), write(target, tmp_path / "target")
    make(b, t, tmp_path / "delta")
    delta = load_file(tmp_path / "delta/model.safetensors")
    assert {x.dtype for x in delta.values()} == {torch.float32}
    sums = {n: (x.float() + delta[n]).to(x.dtype) for n, x in base.truth.items()}
    assert unequal(sums, target.truth) == []
    config = json.loads((tmp_path / "delta/config.json").read_text())
    assert (config["torch_dtype"], config["model_type"]) == ("float32", "llama")
    assert call("inspect", tmp_path / "delta").code == 0


def test_others_read_the_bits_of_an_exact_delta(tmp_path: Path) -> None:
    base = with_numbers(BASE, 1)
    target = tuned(base)
    b, t = write(base, tmp_path / "base", "meta2"), write(target, tmp_path / "target")
    make(b, t, tmp_path / "delta", "--kind", "xor")
    with safe_open(tmp_path / "delta/delta.safetensors", "pt") as f:
        assert f.metadata() == {"format": "pt", "llamatools.delta": "xor"}
        bits = f.get_tensor("delta.layers.0.mlp.up.weight").view(torch.int16)
    name = "model.layers.0.mlp.up_proj.weight"
    wanted = base.truth[name].view(torch.int16) ^ target.truth[name].view(torch.int16)
    assert torch.equal(bits, wanted)


@pytest.mark.parametrize("words", [(), ("--max-shard-size", "20kB")], ids=["one", "several"])
def test_an_exact_delta_is_no_model(words: tuple[str, ...], tmp_path: Path) -> None:
    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "base"), write(tuned(base), tmp_path / "target")
    delta = tmp_path / "delta"
    make(b, t, delta, "--kind", "xor", *words)
    assert not (delta / "config.json").exists()
    files = sorted(delta.glob("*.safetensors"))
    assert (len(files) > 1) == bool(words)
    for source in (delta, files[0]):
        for command in (("inspect", source), ("convert", source, tmp_path / "x", "--to", "hf")):
            done = call(*command)
            assert done.code == 3
            assert "an exact delta" in done.err
            assert "llamatools apply-delta BASE DELTA OUT" in " ".join(done.err.split())
    assert call("apply-delta", b, delta, tmp_path / "out").code == 0
    assert len(fingerprints(t, tmp_path / "out")) == 1


def test_any_bits_are_exact(tmp_path: Path) -> None:
    """Random bits are NaN, infinities and subnormals, too."""
    one = typed(torch.bfloat16, norm_dtype=torch.float32)
    two = holding(one, {n: t.flip(0) for n, t in one.truth.items()})
    b, t = write(one, tmp_path / "b"), write(two, tmp_path / "t", "meta2")
    make(b, t, tmp_path / "delta", "--kind", "xor")
    assert call("apply-delta", b, tmp_path / "delta", tmp_path / "out").code == 0
    assert unequal(read_hf(tmp_path / "out"), two.truth) == []
    done = call("make-delta", b, t, tmp_path / "add")
    assert done.code == 3
    assert "NaN or infinite" in done.err
    assert "--kind xor" in done.err
    assert leftovers(tmp_path / "add") == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "types",
    [
        (torch.float16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
    ids=str,
)
def test_a_target_of_another_type(
    kind: str, types: tuple[torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    base = with_numbers(typed(types[0]), 1)
    target = holding(typed(types[1]), {n: x.to(types[1]) for n, x in tuned(base).truth.items()})
    b, t = write(base, tmp_path / "b"), write(target, tmp_path / "t")
    assert make(b, t, tmp_path / "delta", "--kind", kind)["inexact"] == 0
    assert call("apply-delta", b, tmp_path / "delta", tmp_path / "out").code == 0
    assert unequal(read_hf(tmp_path / "out"), target.truth) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["hf", "meta1"])
def test_a_grown_vocabulary(kind: str, layout: str, tmp_path: Path) -> None:
    base = with_numbers(typed(torch.float16), 1)
    target = with_numbers(typed(torch.float16, vocab=43), 2)
    b, t = write(base, tmp_path / "b", layout), write(target, tmp_path / "t")
    delta = tmp_path / "delta"
    report = make(b, t, delta, "--kind", kind)
    assert report["padding"] == "zeros"
    assert call("apply-delta", b, delta, tmp_path / "out", "--to", "hf").code == 0
    found = read_hf(tmp_path / "out")
    if kind == "xor":
        assert report["inexact"] == 0
        assert unequal(found, target.truth) == []
        return
    assert torch.equal(load_file(delta / "model.safetensors")[EMBEDDING][40:].half(),
                       target.truth[EMBEDDING][40:])  # fmt: skip
    for words in (("--kind", "pad-zeros"), ("--kind", "add")):
        same = call("apply-delta", b, delta, tmp_path / words[1], "--to", "hf", *words)
        assert same.code == 0
    wrong = call("apply-delta", b, delta, tmp_path / "wrong", "--to", "hf", "--kind", "pad-mean")
    assert wrong.code == 1
    assert "embedding.weight: not the tensor that the delta promises" in wrong.err
    assert "head.weight" in wrong.err
    assert leftovers(tmp_path / "wrong") == []


def test_fewer_rows_are_refused(tmp_path: Path) -> None:
    b = write(with_numbers(typed(torch.float16, vocab=43), 1), tmp_path / "b")
    t = write(with_numbers(typed(torch.float16), 2), tmp_path / "t")
    for kind in KINDS:
        done = call("make-delta", b, t, tmp_path / "delta", "--kind", kind)
        assert done.code == 3
        assert "the target only 40" in done.err


TIES = [(True, True), (True, False), (False, True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ties", TIES, ids=["both", "base", "target"])
@pytest.mark.parametrize("layout", ["hf", "meta1"])
def test_tied_and_not(kind: str, ties: tuple[bool, bool], layout: str, tmp_path: Path) -> None:
    base = with_numbers(Tiny(style="llama-3.2", tied=ties[0]), 1)
    target = with_numbers(Tiny(style="llama-3.2", tied=ties[1]), 2)
    b, t = write(base, tmp_path / "b", layout), write(target, tmp_path / "t", layout)
    report = make(b, t, tmp_path / "delta", "--kind", kind)
    assert ("head.weight" in {x["name"] for x in report["tensors"]}) != ties[1]  # type: ignore[attr-defined]
    done = call("apply-delta", b, tmp_path / "delta", tmp_path / "out", "--to", "hf", "--json")
    assert done.code == 0, done.err
    assert done.json["model"]["tied"] == ties[1]
    assert done.json["merge"]["base_fingerprint"] == report["base"]["fingerprint"]  # type: ignore[index]
    if report["inexact"] == 0:
        assert unequal(read_hf(tmp_path / "out"), target.truth) == []
        assert len(fingerprints(t, tmp_path / "out")) == 1


def inexact_pair(tmp_path: Path) -> tuple[Path, Path, Tiny]:
    """Where a value is tiny beside its base's, fp32 holds no difference that leads to it; and no
    sum but that of two minus zeros is minus zero."""
    base = with_numbers(typed(torch.float16), 1)
    target = tuned(base)
    name = "model.layers.0.mlp.up_proj.weight"
    base.truth[name][0, :3] = torch.tensor([1000.0, -0.0, 0.5])
    target.truth[name][0, :3] = torch.tensor([1.0014e-5, -0.0, -0.0])
    return write(base, tmp_path / "b"), write(target, tmp_path / "t"), target


def test_what_does_not_come_back_is_counted(tmp_path: Path) -> None:
    b, t, target = inexact_pair(tmp_path)
    done = call("make-delta", b, t, tmp_path / "shown")
    assert done.code == 0
    told = " ".join(done.out.split())
    assert "warning: 2 of" in told
    assert "--kind xor makes a delta that is exact" in told
    report = make(b, t, tmp_path / "delta")
    assert report["inexact"] == 2
    by_name = {x["name"]: x["inexact"] for x in report["tensors"]}  # type: ignore[attr-defined]
    assert {n for n, k in by_name.items() if k} == {"layers.0.mlp.up.weight"}
    done = call("apply-delta", b, tmp_path / "delta", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert any("2 values differ in their last bits" in n for n in done.json["notes"])
    assert unequal(read_hf(tmp_path / "out"), target.truth) == ["model.layers.0.mlp.up_proj.weight"]
    exact = make(b, t, tmp_path / "exact", "--kind", "xor")
    assert exact["inexact"] == 0
    assert call("apply-delta", b, tmp_path / "exact", tmp_path / "same").code == 0
    assert unequal(read_hf(tmp_path / "same"), target.truth) == []


def test_an_inexact_delta_is_held_to_what_it_gives(tmp_path: Path) -> None:
    b, t, _ = inexact_pair(tmp_path)
    make(b, t, tmp_path / "delta")
    path = tmp_path / "delta" / NAME
    proof = json.loads(path.read_text())
    entry = next(x for x in proof["tensors"] if x["inexact"])
    entry["blake3"] = "0" * 64
    path.write_text(json.dumps(proof))
    assert call("apply-delta", b, tmp_path / "delta", tmp_path / "out").code == 1


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "base"), write(tuned(base), tmp_path / "target")
    make(b, t, tmp_path / "delta", "--kind", request.param)
    return b, t, tmp_path / "delta"


def refused(base: Path, delta: Path, *words: object, code: int) -> str:
    out = delta.parent / "out"
    done = call("apply-delta", base, delta, out, *words)
    assert done.code == code, done.err
    assert leftovers(out) == []
    return " ".join(done.err.split())


def test_another_base_is_refused_before_writing(made: tuple[Path, Path, Path]) -> None:
    b, _, delta = made
    tensors = load_file(b / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"].view(torch.int16)[7, 7] ^= 1
    save_file(tensors, b / "model.safetensors", metadata={"format": "pt"})
    assert "the delta was made for a base of the fingerprint" in refused(b, delta, code=3)


def test_a_base_of_another_type_is_refused(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    b, _, delta = made
    assert call("convert", b, tmp_path / "wide", "--to", "hf", "--dtype", "fp32").code == 0
    assert "the same in another type" in refused(tmp_path / "wide", delta, code=3)


def test_a_flipped_bit_in_the_delta(made: tuple[Path, Path, Path]) -> None:
    b, _, delta = made
    path = next(delta.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    assert "the delta is damaged or was changed" in refused(b, delta, code=3)


def test_a_wrong_promise(made: tuple[Path, Path, Path]) -> None:
    b, _, delta = made
    proof = json.loads((delta / NAME).read_text())
    proof["tensors"][4]["blake3"] = "1" * 64
    edit_json(delta / NAME, tensors=proof["tensors"])
    name = proof["tensors"][4]["name"]
    assert f"{name}: not the tensor that the delta promises" in refused(b, delta, code=1)


def test_a_cast_is_not_held_to_the_promise(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    b, t, delta = made
    done = call("apply-delta", b, delta, tmp_path / "out", "--dtype", "fp32", "--json")
    assert done.code == 0, done.err
    assert any("what --dtype casts is not held" in n for n in done.json["notes"])
    assert call("apply-delta", b, delta, tmp_path / "same", "--dtype", "bf16").code == 0
    assert len(fingerprints(t, tmp_path / "same")) == 1


def test_another_kind_than_it_says(made: tuple[Path, Path, Path]) -> None:
    b, _, delta = made
    kind = json.loads((delta / NAME).read_text())["kind"]
    other = {"add": "xor", "xor": "pad-mean"}[kind]
    assert f"it is of kind {kind}" in refused(b, delta, "--kind", other, code=2)


def test_not_twice(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    b, _, delta = made
    assert call("apply-delta", b, delta, tmp_path / "once").code == 0
    assert "merged already" in refused(tmp_path / "once", delta, code=3)


PROOFS: list[tuple[str, Callable[[dict[str, object]], object], str]] = [
    ("schema", lambda p: p.update({"$schema": "urn:llamatools:delta:2"}), "another version"),
    ("kind", lambda p: p.update(kind="times"), "kind: expected add or xor"),
    ("no kind", lambda p: p.pop("kind"), "kind: expected add or xor"),
    ("padding", lambda p: p.update(padding="mean"), "padding: expected null or zeros"),
    ("digest", lambda p: p.update(fingerprint="12"), "64 hexadecimal digits"),
    ("no digest", lambda p: p.pop("fingerprint"), "fingerprint is missing"),
    ("no base", lambda p: p.pop("base"), "base: fingerprint is missing"),
    ("base", lambda p: p.update(base=[1]), "base: expected an object"),
    ("inexact", lambda p: p.update(inexact=-1), "inexact: expected a whole number"),
    ("no tensors", lambda p: p.update(tensors={}), "tensors: expected an array"),
    ("tensor", lambda p: p.update(tensors=[{"name": "norm.weight"}]), "blake3 is missing"),
    ("dtype", lambda p: p["tensors"][0].update(dtype="I8"), "dtype: expected F32"),  # type: ignore[index]
    ("shape", lambda p: p["tensors"][0].update(shape=[-1]), "shape: expected whole"),  # type: ignore[index]
    ("other shape", lambda p: p["tensors"][0].update(shape=[41, 48]), "says shape [41, 48]"),  # type: ignore[index]
    ("twice", lambda p: p["tensors"].append(p["tensors"][0]), "not the first"),  # type: ignore[attr-defined,index]
    ("fewer", lambda p: p["tensors"].pop(), "differ in"),  # type: ignore[attr-defined]
    ("more", lambda p: p["tensors"].append({**p["tensors"][0], "name": "\x1b[31m"}), "differ in"),  # type: ignore[attr-defined,index]
]


@pytest.mark.parametrize(("change", "message"), [p[1:] for p in PROOFS], ids=[p[0] for p in PROOFS])
def test_a_proof_that_makes_no_sense(
    change: Callable[[dict[str, object]], object], message: str, made: tuple[Path, Path, Path]
) -> None:
    b, _, delta = made
    proof = json.loads((delta / NAME).read_text())
    change(proof)
    (delta / NAME).write_text(json.dumps(proof))
    told = refused(b, delta, code=3)
    assert message in told
    assert "\x1b" not in told


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_workers_or_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamatools.plan.passes.edits._TILE", 8 * BASE.dim)
    monkeypatch.setattr("llamatools.deltas.exprs._CHUNK", 2 * BASE.dim)
    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "b", "meta2"), write(tuned(base), tmp_path / "t")
    made, applied = [], []
    for i, words in enumerate([(), ("--jobs", 1), ("--jobs", 4), ("--max-memory", "60kB")]):
        delta, out = tmp_path / f"d{i}", tmp_path / f"o{i}"
        assert call("make-delta", b, t, delta, "--kind", kind, *words).code == 0
        assert call("apply-delta", b, tmp_path / "d0", out, "--to", "hf", *words).code == 0
        made.append(tree(delta))
        applied.append(tree(out))
    assert all(m == made[0] for m in made)
    assert all(a == applied[0] for a in applied)


@pytest.mark.parametrize("kind", KINDS)
def test_the_targets_files_go_along(kind: str, tmp_path: Path) -> None:
    large = Tiny(style="llama-1", kv_heads=8, vocab=420)
    base = with_numbers(large, 1)
    b, t = write(base, tmp_path / "b", "meta2"), write(tuned(base), tmp_path / "t")
    (t / "tokenizer.model").write_bytes(sentencepiece_model(420))
    (t / "generation_config.json").write_text('{"temperature": 0.5}')
    (t / "LICENSE").write_text("free")
    edit_json(t / "config.json", rms_norm_eps=3e-6, pad_token_id=7)
    make(b, t, tmp_path / "delta", "--kind", kind)
    done = call("apply-delta", b, tmp_path / "delta", tmp_path / "out", "--to", "hf")
    assert done.code == 0, done.err
    found, wanted = tree(tmp_path / "out"), tree(t)
    for name in ("tokenizer.model", "generation_config.json", "LICENSE"):
        assert found[name] == wanted[name]
    config = json.loads(found["config.json"])
    assert (config["rms_norm_eps"], config["pad_token_id"]) == (3e-6, 7)
    assert len(fingerprints(t, tmp_path / "out")) == 1


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "b"), write(tuned(base), tmp_path / "t")
    for kind in KINDS:
        done = call("make-delta", b, t, tmp_path / "delta", "--kind", kind, "--dry-run")
        assert done.code == 0
        assert "nothing was written" in done.out
        assert leftovers(tmp_path / "delta") == []


def test_library(tmp_path: Path) -> None:
    import llamatools

    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "b"), write(tuned(base), tmp_path / "t")
    proof = llamatools.make_delta(b, t, tmp_path / "delta", kind="xor")
    manifest = llamatools.apply_delta(b, tmp_path / "delta", tmp_path / "out")
    assert manifest["fingerprint"] == proof["target"]["fingerprint"]  # type: ignore[index]
    for wrong in ("times", ""):
        with pytest.raises(llamatools.LlamatoolsError, match="--kind"):
            llamatools.make_delta(b, t, tmp_path / "x", kind=wrong)
    with pytest.raises(llamatools.LlamatoolsError, match="--kind"):
        llamatools.apply_delta(b, tmp_path / "delta", tmp_path / "x", kind="times")


def test_configs_of_exact_deltas(tmp_path: Path) -> None:
    """They say what the tensors cannot, and are held against them."""
    base = with_numbers(BASE, 1)
    b, t = write(base, tmp_path / "b"), write(tuned(base), tmp_path / "t")
    make(b, t, tmp_path / "delta", "--kind", "xor")
    path = tmp_path / "delta" / NAME
    proof = json.loads(path.read_text())
    for change, message in (
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"num_hidden_layers": 1 << 39}, "layers, but the files hold tensors of 2"),
        ({"num_attention_heads": 7}, "7 heads"),
        ({"model_type": "gpt2"}, "not a Llama"),
        ({"hidden_size": "x"}, "hidden_size"),
    ):
        path.write_text(json.dumps({**proof, "config": proof["config"] | change}))
        assert message in refused(b, tmp_path / "delta", code=3)
