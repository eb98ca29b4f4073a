"""Documents that somebody wrote by hand, digest and all: nothing in them is believed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from check_kit import copied, make
from support.calls import call

import llamatools
from llamatools.jsonio import dump_json
from llamatools.seal import sealed

Document = dict[str, Any]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


def _file(**changes: object) -> Callable[[Document], None]:
    return lambda d: d["files"][0].update(changes)


def _tensor(**changes: object) -> Callable[[Document], None]:
    return lambda d: d["tensors"][0].update(changes)


def _set(**changes: object) -> Callable[[Document], None]:
    return lambda d: d.update(changes)


LIES: dict[str, Callable[[Document], None]] = {
    "another schema": _set(**{"$schema": "urn:llamatools:manifest:2"}),
    "no fingerprint": _set(fingerprint=None),
    "a fingerprint in capitals": lambda d: d.update(fingerprint=d["fingerprint"].upper()),
    "no files": _set(files=[]),
    "files that are none": _set(files={"name": "x"}),
    "a file that is none": lambda d: d["files"].append("config.json"),
    "a name that leads out": _file(name="../config.json"),
    "a name that leads out later": _file(name="a/../../config.json"),
    "an absolute name": _file(name="/etc/passwd"),
    "an empty name": _file(name=""),
    "the folder": _file(name="."),
    "a NUL": _file(name="config.json\0"),
    "a name that is a number": _file(name=7),
    "a negative size": _file(bytes=-1),
    "a size of many digits": _file(bytes=10**19),
    "a size that is true": _file(bytes=True),
    "half a size": _file(bytes=0.5),
    "a short digest": _file(blake3="00"),
    "no digest": _file(blake3=None),
    "a digest with a line end": lambda d: _file(blake3=d["files"][0]["blake3"] + "\n")(d),
    "no tensors": _set(tensors=[]),
    "a tensor twice": lambda d: d["tensors"].append(d["tensors"][0]),
    "a tensor without a name": _tensor(name=None),
    "another tensor": _tensor(name="other"),
    "another tensor's digest": _tensor(blake3="0" * 64),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lies_under_a_digest_that_holds(
    lie: Callable[[Document], None], shelf: Path, tmp_path: Path
) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    file = out / "llamatools.json"
    document = json.loads(file.read_text())
    lie(document)
    file.write_bytes(dump_json(sealed(document)))
    found = llamatools.check(out)
    assert "document" in {p.kind for p in found.problems if p.file == "llamatools.json"}
    done = call("check", out)
    assert done.code == 1
    assert "root:" not in done.out  # of /etc/passwd


TEXTS = {
    "nothing": b"",
    "no JSON": b"\x00\x01",
    "an array": b"[]\n",
    "deep": b"[" * 100_000,
    "a number": b"1" * 1_000_000,
    "a key twice": b'{"files": [], "files": []}\n',
    "NaN": b'{"files": NaN}',
    "large": b" " * 16_000_001,
    "many values": b'{"files": [' + b"0," * 600_000 + b"0]}\n",
    "many files": b'{"files": [' + b'"",' * 400_000 + b'""]\n}\n',
    "empty": b"{}\n",
    "a digest alone": dump_json(sealed({"a": 1})),
}


@pytest.mark.parametrize("name", ["llamatools.json", "llamatools-delta.json"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_documents_that_are_none(text: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    (tmp_path / "model.safetensors").write_bytes(b"?")
    start = time.monotonic()
    found = llamatools.check(tmp_path)
    assert time.monotonic() - start < 20
    assert name in {p.file for p in found.problems}
    assert found.exit_code == 1
    assert len(found.problems) < 30


def test_words_of_a_document_are_made_harmless(shelf: Path, tmp_path: Path) -> None:
    out = copied(make("hf", shelf), tmp_path / "out")
    file = out / "llamatools.json"
    document = json.loads(file.read_text())
    document["files"][0]["name"] = "\x1b[31m::error::x"
    document["files"][1]["name"] = "../\x1b]0;title\x07"
    document["tensors"][0]["name"] = "\x1b[2J"
    file.write_bytes(dump_json(sealed(document)))
    for flags in ((), ("--json",)):
        done = call("check", out, *flags)
        assert done.code == 1
        assert not {"\x1b", "\x07"} & set(done.out)
        assert "::error" not in done.out


def test_folders_without_end(tmp_path: Path) -> None:
    """A link to a folder above is not followed, and folders in folders come to an end."""
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  x\n")
    (tmp_path / "up").symlink_to(tmp_path)
    assert {p.file for p in llamatools.check(tmp_path).problems} == {"x"}
    (tmp_path.joinpath(*["d"] * 40)).mkdir(parents=True)
    done = call("check", tmp_path)
    assert done.code == 3
    assert "levels deep" in done.err
