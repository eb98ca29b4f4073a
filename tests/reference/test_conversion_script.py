"""The conversion script of transformers 4.46.3 writes the same tensors, bit for bit.

    LLAMATOOLS_SCRIPT_PYTHON=VENV/bin/python python -m pytest -m scripts \\
        tests/reference/test_conversion_script.py

VENV: `pip install torch transformers==4.46.3 safetensors accelerate sentencepiece`.

What the script cannot do, and how it is compared all the same:

- It writes bfloat16 whatever it reads, and says float16 in its config: compared with our
  `--dtype bf16`, which loses nothing of golden weights.
- It keeps every copy of a key-value head where there are more files than heads, and counts them all
  in its config: its heads must be ours, each repeated.
- It is told the generation, the number of files and the vocabulary; nothing is found out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import FILES, GOLDENS, Golden
from other_python import named_by, run_jobs
from support.tiny import Tensors
from support.tiny_files import read_hf, unequal

import llamatools

pytestmark = pytest.mark.scripts

VERSIONS = {
    "llama1-mha": "1",
    "llama2-gqa": "2",
    "codellama-mha": "2",
    "llama3-gqa": "3",
    "llama3-mqa": "3",
    "llama31-scaled": "3.1",
    "llama32-tied": "3.2",
}
CASES = [(golden, files) for golden in GOLDENS for files in FILES]

Written = dict[tuple[Golden, int], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """What the script makes of every golden checkpoint."""
    python = named_by("LLAMATOOLS_SCRIPT_PYTHON")
    scratch = tmp_path_factory.mktemp("script")
    made = {(g, n): scratch / f"{g}-{n}" for g, n in CASES}
    jobs = [
        {
            "source": str(golden.folder(files)),
            "out": str(out),
            "vocab": golden.facts["vocab_size"],
            "version": VERSIONS[golden.name],
            "files": files,
        }
        for (golden, files), out in made.items()
    ]
    run_jobs(python, "script_run.py", jobs, scratch)
    return made


def _ours(golden: Golden, files: int, tmp_path: Path) -> Path:
    options = llamatools.Options(to="hf", dtype="bf16")
    llamatools.convert(golden.folder(files), tmp_path / "hf", options)
    return tmp_path / "hf"


def _repeat_heads(tensors: Tensors, golden: Golden, copies: int) -> Tensors:
    """Key-value heads as often as the files hold them."""
    width = golden.facts["params"]["dim"] // golden.facts["params"]["n_heads"]

    def repeat(t: torch.Tensor) -> torch.Tensor:
        heads = t.view(-1, width, t.shape[1])  # (K, D, in) -> (K·copies·D, in)
        return heads.repeat_interleave(copies, 0).reshape(-1, t.shape[1])

    keys = ("k_proj.weight", "v_proj.weight")
    return {n: repeat(t) if n.endswith(keys) else t for n, t in tensors.items()}


@pytest.mark.parametrize(("golden", "files"), CASES, ids=str)
def test_tensors_are_bit_equal(
    golden: Golden, files: int, written: Written, tmp_path: Path
) -> None:
    ours = read_hf(_ours(golden, files, tmp_path))
    copies = max(1, files // golden.facts["n_kv_heads"])
    script = read_hf(written[golden, files])
    assert unequal(_repeat_heads(ours, golden, copies), script) == []
    assert (unequal(ours, script) == []) == (copies == 1)


@pytest.mark.parametrize(("golden", "files"), CASES, ids=str)
def test_configs_say_the_same(golden: Golden, files: int, written: Written, tmp_path: Path) -> None:
    theirs: dict[str, Any] = json.loads((written[golden, files] / "config.json").read_text())
    ours: dict[str, Any] = json.loads((_ours(golden, files, tmp_path) / "config.json").read_text())
    copies = max(1, files // golden.facts["n_kv_heads"])
    assert theirs.pop("num_key_value_heads") == ours.pop("num_key_value_heads") * copies
    # Token ids beyond a tiny vocabulary are left out of ours; types are told above.
    for key in ("bos_token_id", "eos_token_id", "torch_dtype", "transformers_version"):
        ours.pop(key, None)
        theirs.pop(key)
    assert {k: ours.get(k) for k in theirs} == theirs
