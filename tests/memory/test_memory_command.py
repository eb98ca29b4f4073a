"""The command: what it prints, for people and for programs, and its exit codes."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
from support.calls import call, edit_json
from support.schemas import check, parent, paths
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

import llamatools
from llamatools.cli.narrow import Column, fitted, unbroken
from llamatools.errors import UsageError

FULL = ("--kv-memory", "--compare", "--context", "2k,8k,200k", "--batch", "2", "--kv-dtype", "fp8",
        "--engine", "vllm", "--tp", "2", "--pp", "2", "--fail-if-over", "900GiB")  # fmt: skip


def _report(*words: object) -> Any:
    done = call("inspect", *words, "--json")
    assert done.code == 0, done.err
    return done.json


def _documents(folder: Path) -> list[Any]:
    tied = write_meta(Tiny(style="llama-3.2", tied=True), folder / "meta", 2)
    return [
        _report(tied, *FULL),
        _report("llama-3.1-8b", "--kv-memory"),
        _report("llama-3.2-90b-vision", "--kv-memory", "--weights-dtype", "int4", "--gpu", "24GiB"),
        _report("llama-4-maverick", "--kv-memory", "--gpu", "h100", "--fail-if-over", "9TiB"),
    ]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return _documents(tmp_path_factory.mktemp("documents"))


def test_reports_obey_their_schema(documents: list[Any]) -> None:
    assert [check("memory", d) for d in documents] == [[]] * len(documents)


def test_the_schema_has_teeth(documents: list[Any]) -> None:
    """Nothing may be missing, of another kind, or beside what is known."""
    unnoticed = []
    for document in (documents[0], documents[2]):
        for path in paths(document):
            for change in ("replace", "add", "remove"):
                wrong = copy.deepcopy(document)
                holder = parent(wrong, path)
                free = {"by_group", "by_dtype", "warnings", "notes"} & set(path[:-1])
                if change == "replace":
                    holder[path[-1]] = {"no": ["such", "thing"]}
                elif change == "add" and isinstance(holder, dict) and not free:
                    holder["unheard_of"] = 1
                elif change == "remove" and isinstance(holder, dict) and not free:
                    del holder[path[-1]]
                else:
                    continue
                if not check("memory", wrong):
                    unnoticed.append((change, path))
    assert unnoticed == []


def test_bytes_are_integers_and_say_what_they_are(documents: list[Any]) -> None:
    figures = [
        f for d in documents for p in paths(d)
        if isinstance(f := parent(d, p)[p[-1]], dict) and "kind" in f and "value" in f
    ]  # fmt: skip
    assert {f["kind"] for f in figures} == {"exact", "estimate"}
    assert all(type(f["value"]) is int for f in figures)
    assert all(("source" in f) == (f["kind"] == "estimate") for f in figures)


def test_totals_are_sums(documents: list[Any]) -> None:
    for d in documents:
        for row in d["contexts"]:
            g = row["per_gpu"]
            parts = sum(g[k]["value"] for k in ("weights", "kv", "rope", "activations", "runtime"))
            assert g["total"]["value"] == parts


@pytest.mark.parametrize(("limit", "code"), [("80GiB", 0), ("16GiB", 1), ("1B", 1), ("40gb", 0)])
@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_gate_for_ci(limit: str, code: int, how: tuple[str, ...]) -> None:
    words = ("inspect", "llama-3.1-8b", "--kv-memory", "--fail-if-over", limit, *how)
    done = call(*words)
    assert done.code == code
    if how:
        assert done.json["limit"]["over"] is (code == 1)
    else:
        assert ("over the limit" in done.out) is (code == 1)


def test_the_gate_counts_the_longest_context_on_one_gpu() -> None:
    def passes(*words: str) -> bool:
        done = call("inspect", "llama-3.1-8b", "--kv-memory", "--fail-if-over", "20GiB", *words)
        assert done.code in (0, 1)
        return done.code == 0

    assert passes("--context", "8k")
    assert not passes("--context", "128k,8k")
    assert passes("--context", "128k", "--tp", "2")
    assert passes("--context", "32k", "--kv-dtype", "fp8")
    assert passes("--context", "128k", "--weights-dtype", "int4", "--kv-dtype", "int4")


WRONG = {
    "no unit": ["--kv-memory", "--fail-if-over", "80"],
    "no size": ["--kv-memory", "--fail-if-over", "GiB"],
    "bad contexts": ["--kv-memory", "--context", "8k,lots,0"],
    "no batch": ["--kv-memory", "--batch", "0"],
    "unknown format": ["--kv-memory", "--kv-dtype", "int3"],
    "unknown engine": ["--kv-memory", "--engine", "abacus"],
    "unknown gpu": ["--kv-memory", "--gpu", "abacus"],
    "uneven ranks": ["--kv-memory", "--tp", "3"],
    "stages": ["--kv-memory", "--pp", "33"],
    "forgotten": ["--batch", "2", "--tp", "2"],
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_wrong_words(words: list[str]) -> None:
    done = call("inspect", "llama-3.1-8b", *words)
    assert done.code == 2
    assert done.err
    assert done.out == ""


def test_what_belongs_to_kv_memory_is_said_at_once() -> None:
    done = call("inspect", "x", "--batch", 1, "--gpu", "h100", "--compare")
    assert done.code == 2
    assert done.err.count("belongs to --kv-memory") == 3


def test_warnings() -> None:
    def said(*words: str) -> str:
        return " ".join(_report("llama-3.1-8b", "--kv-memory", *words)["warnings"])

    assert said() == ""
    assert "beyond the 131,072 tokens" in said("--context", "8k,256k")
    assert "ranks beyond 8 save no KV memory" in said("--tp", "16")
    assert "llama.cpp: a KV cache in fp8 is none of those" in said(
        "--engine", "llama.cpp", "--kv-dtype", "fp8"
    )
    assert said("--engine", "llama.cpp", "--kv-dtype", "q8_0") == ""
    assert said("--pp", "2") == ""
    assert "11, 11, 10 layers" in said("--pp", "3")


def test_longest_is_by_memory_alone() -> None:
    def notes(gpu: str) -> list[str]:
        return list(_report("llama-3.1-8b", "--kv-memory", "--gpu", gpu)["notes"])

    assert any("the model was made for 131,072 tokens" in n for n in notes("h200"))
    assert notes("rtx4090") == []


def _shown(*words: object, columns: int = 80, monkeypatch: Any) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = call("inspect", *words)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-405b", "llama-4-maverick"])
def test_it_fits_the_terminal(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--compare", "--tp", "8", "--fail-if-over", "9TiB")
    out = _shown(name, "--kv-memory", *more, columns=columns, monkeypatch=monkeypatch)
    assert max(map(len, out.splitlines())) <= columns
    for word in ("fits", "weights", "KV cache", "h100-80gb", "~", "within the limit"):
        assert word in out
    if columns == 80:  # no cell of a table is broken in two
        assert re.search(r"^mi300x-192gb +~173 GiB +\w+ ", out, re.M)
        many = ",".join(str(n) for n in range(1000, 100_000, 9000))
        out = _shown(
            "llama-3.1-405b", "--kv-memory", "--compare", "--context", many,
            columns=columns, monkeypatch=monkeypatch,
        )  # fmt: skip
        assert re.search(r"^t4-16gb +~13.1 GiB .* ~\d+ \(\d+ x \d+\) *$", out, re.M)


FIGURE = r"~?\d[\d,.]* (?:[KMGT]iB|B)"


@pytest.mark.parametrize("columns", [20, 40, 50, 60, 80, 200])
def test_figures_are_whole_on_any_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are left out where there is no room; what is left is what a wide terminal has."""
    words = ("llama-3.1-405b", "--kv-memory", "--gpu", "h100", "--gpu", "mi300x", "--tp", "16",
             "--context", "8k,32k,64k,100k,128k,1m")  # fmt: skip
    out = _shown(*words, columns=columns, monkeypatch=monkeypatch)
    assert "…" not in out
    table = out.partition("context")[2].partition("│")[0]
    whole = _shown(*words, columns=300, monkeypatch=monkeypatch)
    assert set(re.findall(FIGURE, table)) <= set(re.findall(FIGURE, whole))
    for name, total in (("8k", "~51.6 GiB"), ("1m", "~117 GiB")):
        assert re.search(rf"^ *{name} .*{total}  h\d00-\d+gb *$", out, re.M)
    assert re.search(r"^mi300x-192gb +~173 GiB .*~1.82m", out, re.M)
    assert re.search(r"^GPU +usable .*longest", out, re.M)
    for group in ("mlp 329,772,957,696", "head 2,101,346,304", "norm 4,145,152"):
        assert group in out or columns == 20
    assert not re.search(r"\d *$\s+[KMGT]iB", out, re.M)
    assert ("GPUs tp x pp" in out) is (columns >= 80)  # the control: some do go
    if columns >= 40:
        assert max(len(r.rstrip()) for r in table.splitlines()) <= columns


def test_columns_go_in_order() -> None:
    from rich.console import Console

    columns = [Column("a", ["1234567"]), Column("b", ["12345"], goes=1),
               Column("c", ["1"], goes=2)]  # fmt: skip
    for width, kept in ((17, "abc"), (16, "ab"), (14, "ab"), (13, "a"), (3, "a")):
        table = fitted(columns, width)
        assert "".join(str(c.header) for c in table.columns) == kept
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table, crop=False)
        assert "1234567" in console.export_text()


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    text = "a cache of 1,234 GiB and 7 tokens, 3 files"
    for width in range(20, 50):
        for indent in (0, 9):
            lines = unbroken(text, width, indent).split("\n")
            assert " ".join(lines) == text
            assert max(len(lines[0]) + indent, *map(len, lines)) <= width
            assert not any(re.search(r"(1,234|7)$", line) for line in lines)
    assert any(line.endswith("3") for n in range(20, 50) for line in unbroken(text, n).split("\n"))


def test_the_plot_shows_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("llama-3.1-8b", "--kv-memory", "--gpu", "rtx5090", "--context", "128k")
    rows = [r for r in _shown(*words, monkeypatch=monkeypatch).splitlines() if "│" in r]
    assert len(rows) == 11
    assert rows[0].split("│")[1].rstrip()[-1] == "█"
    assert set(rows[-1].split("│")[1].strip()) == {"░"}
    line = next(i for i, r in enumerate(rows) if "rtx5090-32gb" in r)
    needed = _report(*words)["contexts"][0]["per_gpu"]
    usable = _report(*words)["gpus"][0]["usable"]["value"] - needed["weights"]["value"]
    assert line == 9 - usable * 10 // (needed["total"]["value"] - needed["weights"]["value"])
    # Where the cache crosses the line is the longest context that the table has.
    crossing = rows[line].split("│")[1].index("█") / len(rows[line].split("│")[1].split()[0])
    longest = _report(*words)["gpus"][0]["largest_context"]["value"] / 131072
    assert abs(crossing - longest) < 0.1
    # The control: with nothing cached there is nothing to see of it.
    less = ("llama-3.1-8b", "--kv-memory", "--gpu", "rtx5090", "--context", "1")
    plot = [r for r in _shown(*less, monkeypatch=monkeypatch).splitlines() if "│" in r]
    assert not any("█" in r for r in plot)


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    words = ("llama-3.1-8b", "--kv-memory", "--gpu", "h100")
    coloured = _shown(*words, monkeypatch=monkeypatch)
    assert re.search(r"\x1b\[3\d", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\d", _shown(*words, monkeypatch=monkeypatch))


def test_names_from_files_are_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_hf(Tiny(), tmp_path / "hf")
    edit_json(source / "config.json", torch_dtype="\x1b[31mred[bold]::error::")
    out = _shown(source, "--kv-memory", monkeypatch=monkeypatch)
    assert "\x1b" not in out
    assert "::error::" not in out
    assert "red[bold]" in out


def test_plain_inspect_is_what_it_was(tmp_path: Path) -> None:
    source = write_hf(Tiny(), tmp_path / "hf")
    assert call("inspect", source, "--json").json["$schema"] == "urn:llamatools:inspect:1"
    for name in ("llama-3.1-8b", "llama-3.1-9b"):
        seen = call("inspect", name)
        assert seen.code == 3
        assert "no such file or folder" in seen.err
        assert ("are for --kv-memory" in seen.err) is (name == "llama-3.1-8b")


def test_the_same_as_a_library() -> None:
    question = llamatools.Question(contexts=(8192, 2048, 8192), batch=2, kv_dtype="fp8", tp=2)
    found = llamatools.answer(llamatools.read_subject("llama-3.1-8b"), question)
    words = ("--context", "2k,8k", "--batch", 2, "--kv-dtype", "fp8", "--tp", 2)
    assert found.report == _report("llama-3.1-8b", "--kv-memory", *words)
    with pytest.raises(UsageError) as e:
        llamatools.Question(contexts=(0,), batch=0, tp=-1, kv_dtype="int3", weights_dtype="fp7")
    assert len(e.value.problems) == 5
