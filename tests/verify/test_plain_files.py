"""Logits that others saved: as they are, in several prompts, with hidden states; and imported."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from judging import Made, Make, judged
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from sharp import Sharp
from support.calls import call

from llamatools.errors import BadInput, LlamatoolsError
from llamatools.golden.read import check_logits, open_golden

SMALL = Sharp("small", layers=2, context=256, scaling=None)
ROOT = Path(__file__).parents[2]
Arrays = dict[str, Any]


@pytest.fixture
def made(make: Make) -> Made:
    return make(SMALL)


@pytest.fixture
def arrays(made: Made) -> Arrays:
    """Two prompts."""
    out: Arrays = {}
    for p in made.golden.prompts[2:4]:
        assert p.full is not None
        name = p.prompt.name
        out[f"{name}.tokens"] = np.array(p.prompt.tokens)
        out[f"{name}.positions"] = np.array(p.prompt.positions)
        out[f"{name}.logits"] = p.full.read(0, p.full.shape[0]).astype(np.float32)
    return out


def _npz(arrays: Arrays, path: Path) -> Path:
    np.savez(path, **arrays)
    return path


def _safetensors(arrays: Arrays, path: Path) -> Path:
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("name", ["logits.npz", "logits.safetensors"])
def test_plain_files_are_goldens(name: str, arrays: Arrays, made: Made, tmp_path: Path) -> None:
    save = _npz if name.endswith("npz") else _safetensors
    golden = open_golden(save(arrays, tmp_path / name))
    assert {p.prompt for p in golden.prompts} == {p.prompt for p in made.golden.prompts[2:4]}
    report = judged(made.folder, golden)
    assert report["holds"] and report["overall"]["positions"] == 72
    wrong = {k: v + 0.01 * np.sign(v) if k.endswith("logits") else v for k, v in arrays.items()}
    assert not judged(made.folder, open_golden(save(wrong, tmp_path / f"w-{name}")))["holds"]


def test_compressed_and_fortran_ordered_arrays(arrays: Arrays, made: Made, tmp_path: Path) -> None:
    turned = {k: np.asfortranarray(v) for k, v in arrays.items()}
    np.savez_compressed(tmp_path / "logits.npz", **turned)
    assert judged(made.folder, open_golden(tmp_path / "logits.npz"))["holds"]


def test_positions_may_be_absent(arrays: Arrays, made: Made, tmp_path: Path) -> None:
    kept = {k: v for k, v in arrays.items() if not k.endswith("positions")}
    assert judged(made.folder, open_golden(_npz(kept, tmp_path / "l.npz")))["holds"]


def test_half_precision_is_read(arrays: Arrays, made: Made, tmp_path: Path) -> None:
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    for dtype in (torch.bfloat16, torch.float16):
        halves = {k: t.to(dtype) if k.endswith("logits") else t for k, t in tensors.items()}
        save_torch(halves, tmp_path / "half.safetensors")
        golden = open_golden(tmp_path / "half.safetensors")
        assert golden.dtype == str(dtype).removeprefix("torch.")
        report = judged(made.folder, golden)
        assert report["holds"]
        assert 1e-5 < report["overall"]["rms"] < 1e-2


@pytest.mark.parametrize("model", ["llama3-gqa", "llama31-scaled", "llama32-tied"])
def test_golden_checkpoints_of_the_project_hold(model: str) -> None:
    """Their logits are Meta's code's, or transformers'."""
    folder = ROOT / "golden" / model
    done = call("verify", folder / "mp2", "--golden", folder / "golden.safetensors", "-q")
    assert (done.code, done.out) == (0, "")


def test_hidden_states_locate(made: Made, tmp_path: Path) -> None:
    """With what transformers calls hidden_states: the embedding, layers, the norm."""
    from by_transformers import forward

    from llamatools.checkpoint import open_checkpoint
    from llamatools.reference.observe import Point, Prompt

    saved: Arrays = {}

    class Save:
        def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
            if point.kind != "attention":
                layer = "" if point.layer is None else f"layers.{point.layer}."
                saved[f"hidden.{layer}{point.kind}"] = x.numpy()

        def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
            saved["logits"] = x.numpy()

    prompt = made.golden.prompts[2].prompt
    saved["tokens"] = np.array(prompt.tokens)
    with open_checkpoint(made.folder) as checkpoint:
        forward(checkpoint, [Prompt("p", prompt.tokens, prompt.positions)], Save())
    golden = open_golden(_npz(saved, tmp_path / "l.npz"))
    assert [str(p) for p in golden.points] == ["embedding", "layer 0 mlp", "layer 1 mlp", "norm"]
    report = judged(made.folder, golden)
    assert report["holds"] and len(report["points"]) == 4
    saved["hidden.layers.1.mlp"] = saved["hidden.layers.1.mlp"] * 1.01
    saved["logits"] = saved["logits"] * 1.01
    fault = judged(made.folder, open_golden(_npz(saved, tmp_path / "m.npz")))["fault"]
    assert (fault["point"], fault["after"]) == ("layer 1 mlp", "layer 0 mlp")


# --- imported -------------------------------------------------------------------------------------


def test_import_keeps_logits_and_adds_facts(arrays: Arrays, made: Made, tmp_path: Path) -> None:
    source, out = _npz(arrays, tmp_path / "l.npz"), tmp_path / "g.safetensors"
    done = call(
        "golden", "import", source, "-o", out, "--model", made.folder, "--generator", "meta",
        "--version", "llama-models=0.3.0", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["generator"] == {"name": "meta", "versions": {"llama-models": "0.3.0"}}
    assert done.json["model"]["config"]["n_layers"] == 2
    assert done.json["model"]["fingerprint"] == call("fingerprint", made.folder, "-q").out[:64]
    schema = json.loads((ROOT / "schemas" / "golden-inspect.json").read_text())
    assert [e.message for e in Draft202012Validator(schema).iter_errors(done.json)] == []
    assert call("golden", "inspect", out, "--json").json == done.json
    report = judged(made.folder, open_golden(out))
    assert report["holds"] and report["reference"]["own"] is False


def test_import_digests_large_vocabularies(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((6, 5000)).astype(np.float32)
    source = _npz({"tokens": np.arange(6), "logits": values}, tmp_path / "l.npz")
    out = tmp_path / "g.safetensors"
    done = call("golden", "import", source, "-o", out, "--generator", "x", "--json")
    assert done.code == 0, done.err
    (prompt,) = open_golden(out).prompts
    assert prompt.full is not None and prompt.full.shape == (1, 5000)
    assert prompt.digest is not None and prompt.targets is not None
    p = np.exp(values - values.max(1, keepdims=True)).astype(np.float64)
    p /= p.sum(1, keepdims=True)
    assert np.allclose(prompt.targets, np.log(p[np.arange(5), np.arange(1, 6)]), atol=1e-5)
    assert prompt.digest.top_ids[:, 0].tolist() == values.argmax(1).tolist()
    assert out.stat().st_size < 50_000


def _import(tmp_path: Path, source: Path, *more: object) -> Any:
    return call("golden", "import", source, "-o", tmp_path / "out.safetensors", *more)


def test_import_refuses(arrays: Arrays, made: Made, make: Make, tmp_path: Path) -> None:
    source = _npz(arrays, tmp_path / "l.npz")
    assert _import(tmp_path, source).code == 2
    assert _import(tmp_path, source, "--generator", "llamatools").code == 2
    assert _import(tmp_path, source, "--generator", "x", "--version", "y").code == 2
    other = make(Sharp("other", vocab=96, layers=1, context=64, scaling=None)).folder
    assert _import(tmp_path, source, "--generator", "x", "--model", other).code == 3
    assert _import(tmp_path, source, "--generator", "x").code == 0
    assert _import(tmp_path, source, "--generator", "x").code == 5
    assert _import(tmp_path, source, "--generator", "x", "--force").code == 0
    again = tmp_path / "out.safetensors"
    assert call("golden", "import", again, "-o", tmp_path / "n", "--generator", "x").code == 3


# --- files that are broken ------------------------------------------------------------------------

N, V = 4, 10
GOOD = {"tokens": np.arange(N), "logits": np.ones((N, V), np.float32)}
WRONG = {
    "nothing": {},
    "no logits": {"tokens": GOOD["tokens"]},
    "no tokens": {"logits": GOOD["logits"]},
    "unknown names": GOOD | {"surprise": np.zeros(1)},
    "no rows": {"tokens": np.zeros(0, int), "logits": np.zeros((0, V), np.float32)},
    "scalars": {"tokens": np.array(1), "logits": np.array(1.0)},
    "rows missing": GOOD | {"logits": np.ones((N - 1, V), np.float32)},
    "no vocabulary": GOOD | {"logits": np.ones((N, 0), np.float32)},
    "flat logits": GOOD | {"logits": np.ones(N * V, np.float32)},
    "logits that are integers": GOOD | {"logits": np.ones((N, V), int)},
    "tokens that are not": GOOD | {"tokens": np.arange(N) + 0.5},
    "tokens beyond the vocabulary": GOOD | {"tokens": np.arange(N) + V},
    "negative tokens": GOOD | {"tokens": np.arange(N) - 1},
    "positions that fall": GOOD | {"positions": np.arange(N)[::-1].copy()},
    "positions twice": GOOD | {"positions": np.zeros(N, int)},
    "two vocabularies": {f"a.{k}": v for k, v in GOOD.items()}
    | {"b.tokens": GOOD["tokens"], "b.logits": np.ones((N, V + 1), np.float32)},
    "hidden states of some": {f"{p}.{k}": v for k, v in GOOD.items() for p in "ab"}
    | {"a.hidden.norm": np.ones((N, 8), np.float32)},
    "hidden states of no point": GOOD | {"hidden.surprise": np.ones((N, 8), np.float32)},
    "hidden states of other rows": GOOD | {"hidden.norm": np.ones((N + 1, 8), np.float32)},
    "hidden states of several lengths": GOOD
    | {"hidden.norm": np.ones((N, 8), "f4"), "hidden.embedding": np.ones((N, 9), "f4")},
    "complex logits": GOOD | {"logits": np.ones((N, V), np.complex64)},
    "logits that are yes or no": GOOD | {"logits": np.ones((N, V), bool)},
    "unsigned logits": GOOD | {"logits": np.ones((N, V), np.uint8)},
    "NaN in hidden states": GOOD | {"hidden.norm": np.full((N, 8), np.nan, np.float32)},
    "NaN in logits": GOOD | {"logits": np.full((N, V), np.nan, np.float32)},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("arrays", WRONG.values(), ids=WRONG)
def test_broken_plain_files_are_refused(arrays: Arrays, kind: str, tmp_path: Path) -> None:
    save = _npz if kind == "npz" else _safetensors
    check_logits(open_golden(save(GOOD, tmp_path / f"good.{kind}")))
    with pytest.raises(BadInput):
        check_logits(open_golden(save(arrays, tmp_path / f"wrong.{kind}")))


@pytest.mark.parametrize("name", ["logits", "hidden.norm", "positions"])
def test_longdouble_is_refused_by_name(name: str, made: Made, tmp_path: Path) -> None:
    wide = np.longdouble
    shapes = {"logits": (N, V), "hidden.norm": (N, 8), "positions": (N,)}
    found = str(np.dtype(wide).name)
    path = _npz(GOOD | {name: np.ones(shapes[name], wide)}, tmp_path / "wide.npz")
    done = call("verify", made.folder, "--golden", path, "--device", "cpu")
    assert done.code == 3 and "Traceback" not in done.err
    assert f"found {found}" in done.err and name.removeprefix("hidden.") in done.err
    words = ("--generator", "x", "-o", tmp_path / "out")
    assert call("golden", "import", path, *words).code == 3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool])
def test_types_that_no_logits_have_are_refused_by_name(
    dtype: torch.dtype, made: Made, tmp_path: Path
) -> None:
    arrays = {"tokens": torch.arange(4), "logits": torch.ones(4, V).to(dtype)}
    save_torch(arrays, tmp_path / "g")
    done = call("verify", made.folder, "--golden", tmp_path / "g", "--device", "cpu")
    assert done.code == 3
    assert "logits: expected floats" in done.err and "found" in done.err


def test_objects_are_not_unpickled(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    np.savez(path, tokens=np.arange(4), logits=np.array([[_Evil()] * V] * 4, dtype=object))
    done = call("verify", made.folder, "--golden", path, "--device", "cpu")
    assert done.code == 3 and "object" in done.err
    assert not Path("/tmp/should-not-exist").exists()


def _member(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tokens.npy", data)
            archive.writestr("logits.npy", data)

    return write


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/should-not-exist", "w"))


def _objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([_Evil()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _header(text: str) -> bytes:
    body = text.encode()
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


HOSTILE = {
    "empty zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "half a zip": lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100),
    "no array": _member(b"hello"),
    "nothing in it": _member(b""),
    "objects": _member(_objects()),
    "a pickle": _member(pickle.dumps(_Evil())),
    "a header that is code": _member(_header("__import__('os').system('true')")),
    "a header that nests": _member(_header("(" * 5000)),
    "less data than its shape": _member(
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 10)}\n") + b"\0" * 8
    ),
    "a shape beyond memory": _member(
        _header("{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}\n")
    ),
    "a negative shape": _member(
        _header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}\n")
    ),
    "strings": _member(_header("{'descr': '<U4', 'fortran_order': False, 'shape': (2,)}\n")),
}


@pytest.mark.parametrize(
    "shape",
    ["(True,)", "(True, 8)", "(2, True)", "(2L,)", "(2, 8L)", "(1" + "0" * 3000 + ",)", "(-1,)",
     "(0, 9223372036854775808)", "(2 if 1else 3,)", "('\\d',)"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["tokens", "logits"])
def test_shapes_that_are_no_numbers(
    name: str, shape: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Nor is a word of numpy's own said of them."""
    npy = {
        "tokens": "{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}\n",
        "logits": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8)}\n",
    }
    npy[name] = npy[name].replace("(2, 8)", shape).replace("(2,)", shape)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for which, header in npy.items():
            archive.writestr(f"{which}.npy", _header(header) + b"\0" * 64)
    for words in (("inspect",), ("import", "-o", tmp_path / "o", "--generator", "x")):
        done = call("golden", words[0], tmp_path / "x.npz", *words[1:])
        assert done.code == 3, done.err
        assert [str(w.message) for w in recwarn] == []
        assert f"{name}.npy: not an array of numpy's" in " ".join(done.err.split())


@pytest.mark.parametrize("write", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "x.npz")
    with pytest.raises(LlamatoolsError):
        check_logits(open_golden(tmp_path / "x.npz"))


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", b"\0" * (256 << 20))
    with pytest.raises(BadInput, match="too much"):
        open_golden(tmp_path / "x.npz")


def test_where_a_plain_file_comes_from(made: Made, arrays: Arrays, tmp_path: Path) -> None:
    said = {"logits": "another program", "torch": "2.0", "seed": 7}
    file = tmp_path / "said.safetensors"
    save_file(arrays, file, {"provenance": json.dumps(said)})
    generator = open_golden(file).generator
    assert (generator.name, generator.versions) == ("another program", {"torch": "2.0"})
    words = ("-o", tmp_path / "g.safetensors", "--model", made.folder, "--generator", "it")
    assert call("golden", "import", file, *words).code == 0  # it is a plain file still
    for wrong in ({"logits": "llamatools"}, {"logits": ""}, {}):
        save_file(arrays, file, {"provenance": json.dumps(wrong)})
        with pytest.raises(BadInput, match="expected what made them"):
            open_golden(file)


def test_the_golden_files_of_the_project_say_what_made_them() -> None:
    for file in ROOT.glob("golden/*/golden.safetensors"):
        assert "unknown" not in open_golden(file).generator.name
        assert open_golden(file).generator.versions["torch"]
