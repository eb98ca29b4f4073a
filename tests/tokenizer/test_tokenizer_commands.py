"""`llamatools tokenizer`: reports obey their schemas, exit codes are those promised, and nothing
of a file reaches a terminal raw."""

from __future__ import annotations

import copy
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from libraries import Json, changed, document, model_bytes, opened, put, written
from support.calls import Called, call, leftovers, tree
from support.schemas import check
from support.vocabularies import ranks, sentencepiece_model

import llamatools
from llamatools.errors import NotRepresentable
from llamatools.tokenizer import wire
from llamatools.tokenizer.corpus import fuzz
from llamatools.tokenizer.opening import open_tokenizer
from llamatools.tokenizer.sentencepiece_model import Kind, Piece, read_model

SMALL = ("small-sp", "small-ranks")


def run(*words: object) -> Called:
    return call("tokenizer", *words)


def report(command: str, *words: object, code: int = 0) -> Any:
    """The report of a command, which obeys its schema."""
    done = run(command, *words, "--json")
    assert (done.code, done.err) == (code, "")
    assert check(f"tokenizer-{command}", done.json) == []
    return done.json


def failure(*words: object) -> Json:
    """The error of a command that must fail: said on stderr, and as JSON if asked."""
    plain = run(*words)
    assert plain.code != 0
    assert plain.out == ""
    done = run(*words, "--json")
    assert (done.code, done.err) == (plain.code, plain.err)
    assert check("error", done.json) == []
    error: Json = done.json["error"]
    assert error["exit_code"] == done.code
    assert all(f"error: {p}\n" in plain.err for p in error["problems"])
    return error


@pytest.fixture
def sp(tmp_path: Path) -> Path:
    return put(tmp_path / "sp", model=model_bytes("small-sp"))


@pytest.fixture
def rk(tmp_path: Path) -> Path:
    return put(tmp_path / "rk", model=model_bytes("small-ranks"))


@pytest.mark.parametrize("family", SMALL)
def test_convert_there_and_back(family: str, tmp_path: Path) -> None:
    source = put(tmp_path / "in", model=model_bytes(family))
    there = report("convert", source, tmp_path / "hf", "--to", "hf")
    assert tree(tmp_path / "hf") == written(family)
    assert there["files"] == {n: len(d) for n, d in written(family).items()}
    assert (there["exact"], there["losses"], there["mismatches"]) == (True, [], 0)
    assert there["texts_compared"] > 2_500
    back = report("convert", tmp_path / "hf", tmp_path / "back", "--to", "meta")
    assert back["exact"] is True
    assert tree(tmp_path / "back") == {"tokenizer.model": model_bytes(family)}
    assert leftovers(tmp_path / "hf") == ["hf"]


@pytest.mark.parametrize("family", SMALL)
def test_inspect_says_the_same_of_every_form(family: str, tmp_path: Path) -> None:
    of_model = report("inspect", put(tmp_path / "meta", model=model_bytes(family)))
    of_json = report("inspect", put(tmp_path / "hf", json=document(family)))
    same = ("kind", "size", "base_size", "digest", "specials", "dummy_prefix", "deviations")
    assert {k: of_model[k] for k in same} == {k: of_json[k] for k in same}
    assert of_model["form"] != of_json["form"] == "tokenizer.json"
    assert len(of_model["specials"]) == len(opened(family).tokenizer.specials)


@pytest.mark.parametrize(
    ("family", "official", "version"),
    [
        ("llama-3", "Llama 3", "llama-3.1"),
        ("llama-4", "Llama 4", "llama-4"),
        ("mistral", None, None),
    ],
)
def test_official_files_are_known(
    family: str, official: str | None, version: str | None, tmp_path: Path
) -> None:
    found = report("inspect", put(tmp_path / "meta", model=model_bytes(family)))
    assert (found["official"], found["version"]) == (official, version)


def test_version_names_special_tokens(tmp_path: Path) -> None:
    source = put(tmp_path / "meta", model=model_bytes("llama-3"))
    found = report("inspect", source, "--version", "llama-3")
    assert found["version"] == "llama-3"
    assert "<|eom_id|>" not in {s["text"] for s in found["specials"]}
    assert "<|eom_id|>" in {s["text"] for s in report("inspect", source)["specials"]}


def test_compare_reports(sp: Path, rk: Path, tmp_path: Path) -> None:
    same = report("compare", sp, put(tmp_path / "hf", json=document("small-sp")))
    assert (same["equal"], same["mismatches"], same["first"], same["specials"]) == (
        True, 0, None, [],
    )  # fmt: skip
    other = report("compare", sp, rk, code=1)
    assert other["equal"] is False and other["mismatches"] > 1_000
    assert other["first"]["ids_a"] != other["first"]["ids_b"]
    assert set(other["groups"]) == {"built-in", "tokens", "fuzz"}


def test_compare_takes_text_of_the_user(sp: Path, tmp_path: Path) -> None:
    """One merge that only this text needs is missing."""
    (tmp_path / "corpus").write_text("nothing\nof note\n")
    found = report("compare", sp, sp, "--corpus", tmp_path / "corpus", "--fuzz", 0)
    assert found["groups"]["corpus"] == {"texts": 3, "mismatches": 0}
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert (
        "not UTF-8 at byte 3"
        in failure("compare", sp, sp, "--corpus", tmp_path / "latin")["problems"][0]
    )
    assert failure("compare", sp, sp, "--corpus", tmp_path / "none")["exit_code"] == 3


def test_a_seed_gives_the_same_fuzz(sp: Path, rk: Path) -> None:
    first, again = (report("compare", sp, rk, "--seed", 1, code=1) for _ in range(2))
    assert first == again
    tokenizer = opened("small-sp").tokenizer
    assert fuzz(tokenizer, 20, seed=1) == fuzz(tokenizer, 20, seed=1) != fuzz(tokenizer, 20, seed=2)


def test_merge(sp: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra.model"
    extra.write_bytes(sentencepiece_model(700, split_digits=False))
    made = report("merge", sp, extra, tmp_path / "out")
    base = read_model(model_bytes("small-sp"), "base")
    data = (tmp_path / "out/tokenizer.model").read_bytes()
    merged = read_model(data, "merged")
    assert merged.pieces[: len(base.pieces)] == base.pieces
    assert made["added"] == len(merged.pieces) - len(base.pieces) > 0
    assert made["size"] == len(merged.pieces)
    new = merged.pieces[len(base.pieces) :]
    known = {p.text for p in base.pieces}
    wanted = [p.text for p in read_model(extra.read_bytes(), "x").pieces if p.text not in known]
    assert [p.text for p in new] == wanted
    assert {p.score for p in new} == {0.0}
    oracle = sentencepiece.SentencePieceProcessor()
    oracle.LoadFromSerializedProto(data)
    assert oracle.get_piece_size() == len(merged.pieces)
    report("merge", sp, extra, tmp_path / "hf", "--to", "hf")
    assert "tokenizer.json" in tree(tmp_path / "hf")
    report("merge", sp, extra, tmp_path / "lone.model")
    assert (tmp_path / "lone.model").read_bytes() == data


def test_merge_as_chinese_llama_was_made(sp: Path, tmp_path: Path) -> None:
    """The other model may be of any kind; its new pieces become usual ones of score 0."""
    data = sentencepiece_model(340, kind="unigram")
    (tmp_path / "extra.model").write_bytes(data)
    report("merge", sp, tmp_path / "extra.model", tmp_path / "out.model")
    base, other, made = (sentencepiece.SentencePieceProcessor() for _ in range(3))
    base.LoadFromSerializedProto(model_bytes("small-sp"))
    other.LoadFromSerializedProto(data)
    made.LoadFromSerializedProto((tmp_path / "out.model").read_bytes())
    old = [base.id_to_piece(i) for i in range(base.get_piece_size())]
    more = [other.id_to_piece(i) for i in range(other.get_piece_size())]
    expected = old + [t for t in more if t not in set(old)]
    assert len(expected) > len(old)
    assert [made.id_to_piece(i) for i in range(made.get_piece_size())] == expected
    for i in range(len(old), len(expected)):
        assert made.get_score(i) == 0 and not made.is_control(i) and not made.is_byte(i)
    for i in range(len(old)):
        assert made.get_score(i) == base.get_score(i)


def test_merge_of_nothing_and_of_ranks(sp: Path, rk: Path, tmp_path: Path) -> None:
    assert "nothing to add" in failure("merge", sp, sp, tmp_path / "o")["problems"][0]
    assert failure("merge", rk, sp, tmp_path / "o")["kind"] == "unsupported"
    assert failure("merge", sp, rk, tmp_path / "o")["exit_code"] == 3
    assert not (tmp_path / "o").exists()


def test_what_cannot_be_read(tmp_path: Path, sp: Path) -> None:
    (tmp_path / "empty").mkdir()
    unigram = put(tmp_path / "unigram", model=sentencepiece_model(340, kind="unigram"))
    for words, kind, said in (
        ((tmp_path / "nowhere",), "bad-input", "no such file or folder"),
        ((tmp_path / "nowhere/tokenizer.model",), "bad-input", "no such file or folder"),
        ((tmp_path / "empty",), "bad-input", "no tokenizer in it"),
        ((unigram,), "unsupported", "of kind Unigram, not BPE"),
    ):
        for command in (
            ("inspect", *words),
            ("compare", *words, sp),
            ("compare", sp, *words),
            ("convert", *words, tmp_path / "o", "--to", "hf"),
        ):
            error = failure(*command)
            assert (error["kind"], error["exit_code"]) == (kind, 3)
            assert said in error["problems"][0]
    assert not (tmp_path / "o").exists()


def test_links_that_lead_away_are_not_followed(tmp_path: Path, sp: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/tokenizer.model").symlink_to(sp / "tokenizer.model")
    assert "tokenizer.model leads out of it" in failure("inspect", tmp_path / "in")["problems"][0]


def test_outputs_are_never_overwritten_unasked(tmp_path: Path, sp: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("1")
    (tmp_path / "file.model").write_text("2")
    for out in ("out", "file.model"):
        assert failure("convert", sp, tmp_path / out, "--to", "meta")["exit_code"] == 5
    assert tree(tmp_path / "out") == {"precious": b"1"}
    assert (tmp_path / "file.model").read_text() == "2"
    assert run("convert", sp, tmp_path / "out", "--to", "meta", "--force").code == 0
    assert tree(tmp_path / "out") == {"tokenizer.model": model_bytes("small-sp")}


@pytest.mark.parametrize("source", ["sp", "sp/tokenizer.model"])
@pytest.mark.parametrize("out", ["sp", "sp/new", ".", "sp/tokenizer.model"])
@pytest.mark.parametrize("command", ["convert", "merge"])
def test_the_input_is_never_replaced(
    command: str, source: str, out: str, sp: Path, tmp_path: Path
) -> None:
    """Not with --force either: a model's weights may lie beside its tokenizer."""
    (sp / "model.safetensors").write_bytes(b"precious")
    (tmp_path / "extra.model").write_bytes(sentencepiece_model(700, split_digits=False))
    before = tree(tmp_path)
    words = {
        "convert": ("convert", tmp_path / source, tmp_path / out, "--to", "hf"),
        "merge": ("merge", tmp_path / source, tmp_path / "extra.model", tmp_path / out),
    }
    run(*words[command], "--force")
    after = tree(tmp_path)
    assert {n: after.get(n) for n in before} == before


def test_a_lone_file(sp: Path, tmp_path: Path) -> None:
    made = report("convert", sp, tmp_path / "lone.model", "--to", "meta")
    assert (tmp_path / "lone.model").read_bytes() == model_bytes("small-sp")
    assert list(made["files"]) == ["tokenizer.model"]
    error = failure("convert", sp, tmp_path / "b.model", "--to", "hf")
    assert (error["kind"], error["exit_code"]) == ("usage", 2)
    found = report("inspect", tmp_path / "lone.model")
    assert found["kind"] == "sentencepiece"


def test_not_compared_if_not_wanted(sp: Path, tmp_path: Path) -> None:
    made = report("convert", sp, tmp_path / "o", "--to", "hf", "--no-verify")
    assert (made["texts_compared"], made["exact"]) == (0, True)
    done = run("convert", sp, tmp_path / "p", "--to", "hf", "--no-verify")
    assert "not compared" in done.out


def tied_model() -> bytes:
    """Two pieces of the small model, given one score."""
    model = read_model(model_bytes("small-sp"), "small")
    longer = [p for p in model.pieces if p.kind is Kind.NORMAL and len(p.text.strip("▁")) > 1]
    one, other = longer[3], longer[4]
    pieces = (Piece(p.text, one.score, p.kind) if p == other else p for p in model.pieces)
    return b"".join(wire.field(1, p.encoded()) for p in pieces) + model.rest


def added(*more: tuple[str, bool]) -> list[Json]:
    """The added tokens of the small ranks, and more."""
    found: list[Json] = copy.deepcopy(document("small-ranks")["added_tokens"])
    for text, special in more:
        found.append({**found[-1], "id": found[-1]["id"] + 1, "content": text, "special": special})
    return found


def renamed() -> list[Json]:
    found = added()
    found[8]["content"] = "<|my_own|>"
    return found


LOSSES: dict[str, tuple[str, Any, str]] = {
    "tied scores": ("hf", lambda: {"model": tied_model()}, "2 pieces .* share their score"),
    "renamed special token": (
        "meta",
        lambda: {"json": changed("small-ranks", added_tokens=renamed())},
        r"1 special token have names .*<\|my_own\|>",
    ),
    "one special token more": (
        "meta",
        lambda: {"json": changed("small-ranks", added_tokens=added(("<extra>", True)))},
        "1 token beyond .*<extra>",
    ),
    "a token that text spells": (
        "meta",
        lambda: {"json": changed("small-ranks", added_tokens=added(("<extra>", False)))},
        "1 added token are read from plain text",
    ),
    "merges left out": (
        "meta",
        lambda: {
            "json": changed(
                "small-sp", model={"merges": document("small-sp")["model"]["merges"][1:]}
            )
        },
        "merge.* missing|more than",
    ),
    "two files that disagree": (
        "hf",
        lambda: {"model": sentencepiece_model(500), "json": document("small-sp")},
        "tokenizer.json, which is believed",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_strict_refuses_what_is_not_exact(name: str, tmp_path: Path) -> None:
    to, files, said = LOSSES[name]
    source = put(tmp_path / "in", **files())
    error = failure("convert", source, tmp_path / "out", "--to", to, "--strict")
    assert (error["kind"], error["exit_code"]) == ("not-representable", 3)
    assert not (tmp_path / "out").exists()
    assert any(re.search(said, p) for p in error["problems"])
    made = report("convert", source, tmp_path / "out", "--to", to)
    assert any(re.search(said, p) for p in (*made["losses"], *made["conflicts"]))
    assert made["exact"] is not bool(made["losses"])
    shown = run("convert", source, tmp_path / "again", "--to", to)
    assert "inexact: " in shown.out or "conflict: " in shown.out


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("to", ["hf", "meta"])
def test_strict_lets_through_what_is_exact(family: str, to: str, tmp_path: Path) -> None:
    source = put(tmp_path / "in", model=model_bytes(family), json=document(family))
    assert report("convert", source, tmp_path / "o", "--to", to, "--strict")["exact"] is True


def test_the_user_s_own_template_stays(tmp_path: Path) -> None:
    for name, config in (("text", "{{ x }}"), ("list", [{"name": "default", "template": "{{x}}"}])):
        source = put(tmp_path / name, json=document("small-sp"), config={"chat_template": config})
        assert report("inspect", source)["chat_template"] is (name == "text") or name == "list"
        report("convert", source, tmp_path / f"{name}-out", "--to", "hf", "--instruct")
        kept = json.loads((tmp_path / f"{name}-out/tokenizer_config.json").read_text())
        assert kept["chat_template"] == config
    (tmp_path / "text/chat_template.jinja").write_text("{{ y }}")
    report("convert", tmp_path / "text", tmp_path / "jinja", "--to", "hf")
    assert (tmp_path / "jinja/chat_template.jinja").read_text() == "{{ y }}"


def test_wrong_words(sp: Path, tmp_path: Path) -> None:
    for words in (
        ("convert", sp, tmp_path / "o"),
        ("convert", sp, tmp_path / "o", "--to", "gguf"),
        ("convert", sp, tmp_path / "o", "--to", "hf", "--version", "llama-9"),
        ("compare", sp),
        ("compare", sp, sp, "--fuzz", -1),
        ("merge", sp),
    ):
        assert run(*words).code == 2
    assert not (tmp_path / "o").exists()


EVIL = "\x1b[31m\n::error::x\r##[group]\u202e[bold]"


def printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and not any(
        mark in text for mark in ("::error", "##[group", "\u202e")
    )


def test_tokens_with_control_characters_are_shown_escaped(tmp_path: Path) -> None:
    n = len(document("small-sp")["model"]["vocab"])
    evil = {"id": n, "content": EVIL, "special": True}
    data = changed("small-sp", added_tokens=[*document("small-sp")["added_tokens"], evil])
    plain = put(tmp_path / "plain", json=document("small-sp"))
    source = put(tmp_path / "in", json=data, config={"bos_token": EVIL + "?", "eos_token": EVIL})
    outputs = [
        run("inspect", source),
        run("compare", plain, source),
        run("compare", source, plain),
        run("convert", source, tmp_path / "o", "--to", "meta"),
        run("convert", source, tmp_path / "p", "--to", "meta", "--strict"),
    ]
    for done in outputs:
        assert done.code in (0, 1, 3)
        assert printable(done.out) and printable(done.err)
    # Rich's own markup is text like any other.
    assert "[bold]" in run("inspect", source).out
    assert report("inspect", source)["specials"][-1]["text"] == EVIL


def test_broken_files_with_control_characters_are_shown_escaped(tmp_path: Path) -> None:
    evil = EVIL.encode()
    put(tmp_path / "ranks", model=ranks() + b"YWI= " + evil)
    put(tmp_path / "json", json=changed("small-sp", model={"merges": [[EVIL, EVIL]]}))
    put(tmp_path / "type", json=changed("small-sp", model={"type": EVIL}))
    norm = wire.field(3, wire.field(1, EVIL) + wire.field(2, "x"))
    put(tmp_path / "norm", model=model_bytes("small-sp") + norm)
    piece = wire.field(1, Piece(EVIL, 0.0, Kind.UNUSED).encoded())
    put(tmp_path / "unused", model=piece * 2 + model_bytes("small-sp"))
    lfs = tmp_path / f"folder {EVIL.replace('/', '')}"
    lfs.mkdir()
    folders = [tmp_path / n for n in ("ranks", "json", "type", "norm", "unused")]
    for folder in (*folders, lfs):
        for words in (("inspect", folder), ("compare", folder, folder)):
            done = run(*words)
            assert done.code == 3
            assert printable(done.out) and printable(done.err)


def test_differences_are_shown_escaped(tmp_path: Path) -> None:
    """The first text that differs holds what a terminal would obey."""
    token = b"\x1b[31m"
    data = ranks() + b"".join(
        b"%b %d\n" % (b64encode(t), 400 + i) for i, t in enumerate((b"\x1b[", b"\x1b[3", token))
    )
    a, b = put(tmp_path / "a", model=data), put(tmp_path / "b", model=ranks())
    done = run("compare", a, b)
    assert done.code == 1
    assert printable(done.out) and "first difference" in done.out


def test_names_of_the_users_files_are_shown_escaped(tmp_path: Path) -> None:
    folder = put(tmp_path / "in\x1b[31m::error::", model=model_bytes("small-sp"))
    done = run("compare", folder, folder)
    assert done.code == 0 and printable(done.out)
    done = run("convert", folder, tmp_path / "out\x1b[31m", "--to", "meta")
    assert done.code == 0 and printable(done.out)


def test_the_library_raises_what_the_command_says(tmp_path: Path) -> None:
    source = put(tmp_path / "in", json=changed("small-ranks", added_tokens=renamed()))
    with pytest.raises(NotRepresentable, match="my_own"):
        llamatools.convert_tokenizer(open_tokenizer(source), tmp_path / "out", "meta", strict=True)
