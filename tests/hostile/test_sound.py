"""Sound checkpoints, however odd, convert bit for bit, to the fingerprint of the plain one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit import MODEL, unchanged
from sound import OTHERS, SOUND
from support.calls import call
from support.tiny_files import read_hf, unequal, write_hf

CASES = {name: (MODEL, make) for name, make in SOUND.items()} | OTHERS


@pytest.mark.parametrize("name", CASES)
def test_converted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, make = CASES[name]
    plain = write_hf(model, tmp_path / "plain")
    wanted = call("fingerprint", plain, "--json").json["fingerprints"][0]["fingerprint"]
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    source = make(tmp_path / "home" / "in") or tmp_path / "home" / "in"
    out = tmp_path / "out"
    with unchanged(tmp_path / "home"):
        done = call("convert", source, out, "--to", "hf")
    assert done.code == 0, done.err
    assert unequal(read_hf(out), model.truth) == []
    assert json.loads((out / "llamatools.json").read_text())["fingerprint"] == wanted
