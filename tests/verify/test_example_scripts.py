"""The scripts that users are given: what they save is imported, and holds."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from sharp import Sharp, write
from support.calls import call

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "golden" / "examples"
FAST = ("--device", "cpu", "--threads", 1)


def test_transformers(tmp_path: Path) -> None:
    model = write(Sharp(layers=3, scaling=None), tmp_path / "m")
    logits, golden = tmp_path / "logits.safetensors", tmp_path / "golden.safetensors"
    script = EXAMPLES / "transformers_logits.py"
    subprocess.run([sys.executable, script, model, logits], check=True, capture_output=True)
    assert call("verify", model, "--golden", logits, *FAST).code == 0
    words = ("--generator", "transformers", "--version", f"transformers={version('transformers')}")
    assert call("golden", "import", logits, "-o", golden, "--model", model, *words).code == 0
    done = call("verify", model, "--golden", golden, "--json", *FAST)
    assert done.code == 0
    points = [p["point"] for p in done.json["points"]]
    assert points == ["embedding", "layer 0 mlp", "layer 1 mlp", "norm"]
    assert all(p["error"] < 1e-5 for p in done.json["points"])


@pytest.mark.meta
@pytest.mark.parametrize("files", [1, 2])
def test_meta(files: int, tmp_path: Path) -> None:
    folder = ROOT / "golden" / "llama3-gqa" / f"mp{files}"
    logits = tmp_path / "logits.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = EXAMPLES / "meta_logits.py"
    command = [*torchrun, f"--nproc-per-node={files}", str(script), str(folder), str(logits)]
    subprocess.run(command, check=True, capture_output=True)
    done = call("verify", folder, "--golden", logits, "--json", *FAST)
    assert done.code == 0 and done.json["overall"]["positions"] == 64


@pytest.mark.parametrize("name", ["transformers_logits.py", "meta_logits.py"])
def test_they_are_short(name: str) -> None:
    code = (EXAMPLES / name).read_text().split('"""')[2]
    statements = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len([line for line in statements if not line.startswith("from")]) <= 20
