"""A document's digest of itself, computed from its bytes as the README says, by other programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from blake3 import blake3
from check_kit import OUTPUTS, make

from llamatools.jsonio import dump_json
from llamatools.seal import digests, is_older, sealed


@pytest.mark.parametrize("name", ["hf", "meta 4", "merged", "applied", "delta", "exact delta"])
def test_the_digest_is_that_of_the_rest(name: str, tmp_path: Path) -> None:
    assert name in OUTPUTS
    (file,) = make(name, tmp_path).glob("llamatools*.json")
    data = file.read_bytes()
    document = json.loads(data)
    digest = document.pop("digest")
    assert blake3(dump_json(document)).hexdigest() == digest
    assert blake3(re.sub(rb',\n  "digest": "[0-9a-f]{64}"', b"", data)).hexdigest() == digest
    assert digests(data) == (digest, digest)
    assert not is_older(data)


def test_as_the_readme_computes_it(tmp_path: Path) -> None:
    if shutil.which("perl") is None:
        pytest.skip("perl is not there")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (program,) = re.findall(r"perl -0pe '(.*?)'", readme)
    file = make("hf", tmp_path) / "llamatools.json"
    done = subprocess.run(["perl", "-0pe", program, file], capture_output=True, check=True)
    assert blake3(done.stdout).hexdigest() == json.loads(file.read_bytes())["digest"]


def test_a_digest_within_is_not_taken_for_the_own() -> None:
    document = sealed({"notes": ['x",\n  "digest": "' + "0" * 64 + '"\n}\n'], "digest": "old"})
    data = dump_json(document)
    stated, true = digests(data)
    assert stated == true == document["digest"]
    assert list(document) == ["notes", "digest"]


def test_what_has_no_digest() -> None:
    assert is_older(dump_json({"casts": []}))
    assert is_older(dump_json({"tensors": [1]}))
    for data in (b"", b"{}\n", dump_json({"casts": {}}), dump_json({"eigest": "0" * 64})):
        assert not is_older(data)
        assert digests(data)[0] is None
