"""Every output passes; with any bit flipped, any file away, added or in another's place, none."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from check_kit import BASE, OUTPUTS, blamed, copied, files, flipped, kinds, make, offsets
from support.calls import call

import llamatools
from llamatools.checking.documents import documents
from llamatools.checking.tree import look
from llamatools.engine.digest import fingerprint
from llamatools.jsonio import dump_json
from llamatools.seal import sealed


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where outputs lie that no test may change."""
    return tmp_path_factory.mktemp("shelf")


def _document(name: str) -> str:
    return "llamatools-delta.json" if "delta" in name else "llamatools.json"


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("deep", [False, True], ids=["", "fingerprint"])
def test_every_output_passes(name: str, deep: bool, shelf: Path) -> None:
    out = make(name, shelf)
    found = llamatools.check(out, fingerprint=deep)
    assert found.problems == ()
    assert found.holds and found.exit_code == 0
    assert found.by == (_document(name),)
    assert found.files == len(list(files(out)))
    assert found.nbytes == sum((out / n).stat().st_size for n in files(out))
    assert (found.fingerprint is not None) == deep
    done = call("check", out)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{out}: whole: {found.files} files, ")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_flipped_bit_is_found_wherever_it_is(name: str, shelf: Path, tmp_path: Path) -> None:
    out = copied(make(name, shelf), tmp_path / "out")
    draw = random.Random(name)
    for file in files(out):
        sound = (out / file).read_bytes()
        for at in offsets(len(sound)):
            flipped(out / file, at, draw.randrange(8))
            found = blamed(out)
            # A damaged document may seem to say something else of other files.
            assert found == {file} or (file == _document(name) and file in found), at
            (out / file).write_bytes(sound)
    assert blamed(out) == set()


@pytest.mark.parametrize("name", ["hf", "exact delta"])
def test_no_byte_of_a_document_may_change(name: str, shelf: Path, tmp_path: Path) -> None:
    """Any byte, to another value: the first, the last, and two in five of those between them."""
    out = copied(make(name, shelf), tmp_path / "out")
    file = out / _document(name)
    sound, draw = file.read_bytes(), random.Random(name)
    ends = {*range(200), *range(len(sound) - 200, len(sound))}
    for at in range(len(sound)):
        if at not in ends and draw.random() > 0.4:
            continue
        data = bytearray(sound)
        data[at] ^= draw.randrange(1, 256) if at % 2 else 1 << draw.randrange(8)
        file.write_bytes(data)
        (claim,) = documents(look(out))
        assert {p.file for p in claim.problems} == {file.name}, at
    for cut in (0, 1, 2, 3, 10, 70, 80, 100, len(sound) // 2, len(sound) - 1):
        file.write_bytes(sound[: len(sound) - cut] if cut else sound + b"\n")
        assert file.name in blamed(out), cut


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_missing_file_is_named(name: str, shelf: Path, tmp_path: Path) -> None:
    source = make(name, shelf)
    for file in set(files(source)) - {_document(name)}:
        out = copied(source, tmp_path / file)
        (out / file).unlink()
        assert kinds(out) == {file: {"missing"}}


@pytest.mark.parametrize("name", ["hf", "meta 4"])
def test_files_that_were_cut_or_go_on(name: str, shelf: Path, tmp_path: Path) -> None:
    source = make(name, shelf)
    for file in set(files(source)) - {_document(name)}:
        out = copied(source, tmp_path / file)
        sound = (out / file).read_bytes()
        for data in (sound[:-1], sound + b"\0", b"", sound[: len(sound) // 2]):
            (out / file).write_bytes(data)
            assert kinds(out) == {file: {"size"}}
        (problem,) = llamatools.check(out).problems
        assert (problem.expected, problem.found) == (str(len(sound)), str(len(sound) // 2))


def test_two_files_in_each_others_place(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("meta 4", shelf), tmp_path / "out")
    a, b = out / "consolidated.01.pth", out / "consolidated.02.pth"
    a.rename(out / "aside")
    b.rename(a)
    (out / "aside").rename(b)
    found = {p.file: p.text for p in llamatools.check(out).problems}
    assert found.keys() == {a.name, b.name}
    assert found[a.name].endswith(f"it holds what {b.name} should")
    assert found[b.name].endswith(f"it holds what {a.name} should")


ADDED = (
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_model.safetensors",
    "adapter_config.json", "pytorch_model.bin", "consolidated.04.pth", "x.gguf", "params.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "modeling_llama.py", "preprocessor_config.json", "quantize_config.json", "unheard.of",
    "llamatools-delta.json", ".hidden", "custom_generate/generate.py",
    "additional_chat_templates/rag.jinja", "original/params.json", "sub/model.safetensors",
    "sub/config.json", "sub/deeper/tokenizer.json", "sub/a.pyc", "sub/x.so", "sub/unheard.of",
    ".ipynb_checkpoints/config.json", "SUB/A.PY",
)  # fmt: skip
HARMLESS = (
    "README.md", "readme.md", ".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "NOTICE",
    "USE_POLICY.md", "MODEL_CARD.md", "figure.png", "notes.txt", ".DS_Store", "images/plot.svg",
    ".cache/huggingface/upload/model.safetensors.metadata", ".git/config", "SHA256SUMS.asc",
    "sub/README.md", "sub/deeper/notes.txt",
)  # fmt: skip


def _add(out: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(b"{}")


@pytest.mark.parametrize("name", ADDED)
def test_what_might_be_loaded_may_not_be_added(name: str, shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    _add(out, name)
    assert blamed(out) == {name}
    assert call("check", out).code == 1


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_told(name: str, shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    _add(out, name)
    found = llamatools.check(out)
    assert found.problems == ()
    assert found.others == (name.partition("/")[0] + ("/" if "/" in name else ""),)
    assert found.others[0] in call("check", out).out


def test_what_is_wrong_below_is_not_called_harmless(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    for name in ("sub/a.py", "sub/README.md", "sub/pictures/a.png", "other/README.md"):
        _add(out, name)
    found = llamatools.check(out)
    assert [p.file for p in found.problems] == ["sub/a.py"]
    assert found.others == ("other/", "sub/README.md", "sub/pictures/")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((n, True) for n in ("adapter_config.json", "x.jinja", "tokenizer.model", "merges.txt")),
        *((n, True) for n in ("model.safetensors.index.json", "sub/config.json", "Y.GGUF")),
        *((n, False) for n in ("pictures", "notes.txt", "README.md", "v1.0", "sub/x", ".idea")),
    ],
)
def test_a_folder_with_the_name_of_a_file(
    name: str, wrong: bool, shelf: Path, tmp_path: Path
) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    (out / name).mkdir(parents=True)
    found = [(p.file, p.text) for p in llamatools.check(out).problems]
    text = "was added and is a folder: llamatools.json does not have it"
    assert found == ([(name, text)] if wrong else [])
    top = name.partition("/")[0]
    assert llamatools.check(out).others == (() if wrong else (f"{top}/",))


def _as_link_away(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def _as_link_within(file: Path) -> None:
    file.rename(file.with_name("other.md"))
    file.symlink_to("other.md")


def _as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _as_link_to_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


@pytest.mark.parametrize(
    "put", [_as_link_away, _as_link_within, _as_folder, _as_pipe, _as_link_to_nowhere]
)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "llamatools.json"])
def test_other_things_in_the_place_of_a_file(
    put: object, file: str, shelf: Path, tmp_path: Path
) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    put(out / file)  # type: ignore[operator]
    assert kinds(out) == {file: {"not-a-file"}}
    assert call("check", out).code == 1


def test_an_added_pipe_is_not_opened(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    os.mkfifo(out / "model-00001-of-00001.safetensors")
    assert kinds(out) == {"model-00001-of-00001.safetensors": {"added"}}


def test_everything_is_found_at_once(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf in parts", shelf), tmp_path / "out")
    parts = sorted(p.name for p in out.glob("model-*"))
    flipped(out / parts[0], 5000)
    (out / parts[1]).unlink()
    with (out / parts[2]).open("ab") as f:
        f.write(b"more")
    flipped(out / "config.json", 0)
    (out / "evil.py").write_text("print()")
    flipped(out / "llamatools.json", 130, 1)
    wanted = {*parts[:3], "config.json", "evil.py", "llamatools.json"}
    assert blamed(out) == wanted
    done = call("check", out)
    assert done.code == 1
    assert {line.split(":")[0].strip() for line in done.out.splitlines()[1:]} == wanted


@pytest.mark.parametrize("name", ["hf", "meta 4", "bin", "tied", "cast", "merged"])
def test_damage_is_traced_to_its_tensor(name: str, shelf: Path, tmp_path: Path) -> None:
    """The tensor whose bytes hold the place where a bit was flipped, as its container says."""
    out = copied(make(name, shelf), tmp_path / "out")
    with llamatools.open_checkpoint(out) as opened:
        places = [
            (canonical, t.file.name, t.offset + t.nbytes // 2)
            for canonical, value in opened.values.items()
            for t in value.reads()
        ]
    assert len(places) >= 19
    for canonical, file, at in places:
        sound = (out / file).read_bytes()
        flipped(out / file, at, 2)
        (problem,) = llamatools.check(out).problems
        assert (problem.file, problem.tensors) == (file, (canonical,))
        (out / file).write_bytes(sound)


def test_damage_outside_of_tensors_names_none(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    flipped(out / "model.safetensors", 0)
    (problem,) = llamatools.check(out).problems
    assert problem.tensors == ()


def test_a_document_that_lies_consistently_about_tensors(shelf: Path, tmp_path: Path) -> None:
    """Its own digest holds and so do the files'; what it says of tensors does not."""
    out = copied(make("hf", shelf), tmp_path / "out")
    file = out / "llamatools.json"
    document = json.loads(file.read_text())
    document["tensors"][3]["blake3"] = "0" * 64
    file.write_bytes(dump_json(sealed(document)))
    assert kinds(out) == {"llamatools.json": {"document"}}
    document["fingerprint"] = fingerprint({t["name"]: t["blake3"] for t in document["tensors"]})
    file.write_bytes(dump_json(sealed(document)))
    assert kinds(out) == {}
    (problem,) = llamatools.check(out, fingerprint=True).problems
    assert problem.kind == "fingerprint"
    assert problem.tensors == (document["tensors"][3]["name"],)


def test_an_exact_delta_that_is_another(shelf: Path, tmp_path: Path) -> None:
    """Its fingerprint is of the bits in its own files."""
    out = copied(make("exact delta", shelf), tmp_path / "out")
    file = out / "llamatools-delta.json"
    document = json.loads(file.read_text()) | {"fingerprint": "1" * 64}
    file.write_bytes(dump_json(sealed(document)))
    assert llamatools.check(out).holds
    assert [p.kind for p in llamatools.check(out, fingerprint=True).problems] == ["fingerprint"]


def _unsealed(out: Path, name: str = "llamatools.json") -> None:
    file = out / name
    document = json.loads(file.read_text())
    del document["digest"]
    file.write_bytes(dump_json(document))


def test_a_document_from_before_there_was_a_digest(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("merged", shelf), tmp_path / "out")
    _unsealed(out)
    found = llamatools.check(out)
    assert found.holds
    assert "llamatools.json has no digest of itself" in found.notes[0]
    flipped(out / "model.safetensors", 9999)
    assert blamed(out) == {"model.safetensors"}


def test_what_older_documents_say_was_merged_is_still_known(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("merged", shelf), tmp_path / "out")
    adapter = OUTPUTS["merged"][2]
    _unsealed(out)
    done = call("merge-lora", out, adapter, tmp_path / "again")
    assert done.code == 3
    assert "is merged already" in done.err


def test_a_delta_without_a_digest_of_its_document_is_applied(shelf: Path, tmp_path: Path) -> None:
    delta = copied(make("exact delta", shelf), tmp_path / "delta")
    _unsealed(delta, "llamatools-delta.json")
    assert llamatools.check(delta).holds
    done = call("apply-delta", BASE, delta, tmp_path / "out")
    assert done.code == 0, done.err
    assert llamatools.check(tmp_path / "out").holds


@pytest.mark.parametrize("name", ["hf", "meta 4", "exact delta"])
def test_without_its_document_nothing_is_said_of_an_output(
    name: str, shelf: Path, tmp_path: Path
) -> None:
    out = copied(make(name, shelf), tmp_path / "out")
    (out / _document(name)).unlink()
    done = call("check", out)
    assert done.code == 3
    assert "nothing says what its files should be" in done.err
    assert "hint: llamatools fingerprint" in done.err


def test_a_folder_that_nothing_is_said_of() -> None:
    assert call("check", BASE).code == 3


def test_a_folder_by_a_link(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make("hf", shelf))
    assert llamatools.check(tmp_path / "link").holds


def test_outputs_are_not_changed_by_looking(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    flipped(out / "model.safetensors", 77777)
    llamatools.check(out, fingerprint=True)
    flipped(out / "model.safetensors", 77777)
    assert {p: p.read_bytes() for p in out.iterdir()} == {p: d for p, (_, d) in before.items()}
