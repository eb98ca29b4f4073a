"""HF -> Meta: Meta's reference code loads what `convert` wrote, strictly, and gives golden logits.

    pip install -c constraints.txt -e '.[test,meta]'
    python -m pytest -m meta tests/reference/test_meta_code.py

`golden/reference.py` runs one process for each file; its `load_state_dict` is strict.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import BY_NAME, DEFECT, GOLDENS, HOME, TOLERANCE, AsHf, Golden, Measured
from safetensors.torch import load_file

import llamatools
from llamatools.layouts.meta import META_3
from llamatools.layouts.table import RowOrder

pytestmark = pytest.mark.meta


def _run(folder: Path, golden: Golden, *options: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """Meta's logits for the golden prompt, and what reference.py says of the run."""
    if golden.facts["rope_factor"] == 32.0:
        options = (*options, "--rope-factor", "32")
    out = folder.parent / f"{folder.name}.logits"
    command = [sys.executable, str(HOME / "reference.py"), str(folder), *options]
    command += ["--tokens", str(golden.prompt), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(out)["logits"], json.loads(done.stdout)


def _check(golden: Golden, folder: Path, files: int, measured: Measured) -> None:
    logits, report = _run(folder, golden)
    error = golden.error(logits)
    measured(golden, error)
    assert report["n_processes"] == files
    assert report["dropped"] == []
    if files > 1:
        assert report["embedding_axis"] == golden.facts["tok_embeddings_axis"]
    assert error <= TOLERANCE


@pytest.mark.parametrize("files", [1, 2, 4])
@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_meta_files_from_hf(
    golden: Golden, files: int, as_hf: AsHf, tmp_path: Path, measured: Measured
) -> None:
    """Four files of `llama2-gqa`, `llama3-gqa` and `llama31-scaled` hold two key-value heads, two
    or four of `llama3-mqa` one."""
    source = as_hf(golden.folder(1))
    options = llamatools.Options(to="meta", shards=files)
    llamatools.convert(source, tmp_path / "meta", options)
    _check(golden, tmp_path / "meta", files, measured)


def test_meta_files_from_hf_in_eight(as_hf: AsHf, tmp_path: Path, measured: Measured) -> None:
    """Each of two key-value heads in four files."""
    golden = BY_NAME["llama31-scaled"]
    options = llamatools.Options(to="meta", shards=8)
    llamatools.convert(as_hf(golden.folder(4)), tmp_path / "meta", options)
    _check(golden, tmp_path / "meta", 8, measured)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("llama1-mha", 4, 1), ("llama2-gqa", 1, 4), ("llama3-gqa", 4, 2), ("llama3-mqa", 2, 4)],
)
def test_meta_files_from_meta(
    name: str, before: int, after: int, tmp_path: Path, measured: Measured
) -> None:
    """Straight from one number of files to another; rope buffers are gone."""
    golden = BY_NAME[name]
    options = llamatools.Options(to="meta", shards=after)
    llamatools.convert(golden.folder(before), tmp_path / "meta", options)
    _check(golden, tmp_path / "meta", after, measured)


@pytest.mark.parametrize("canonical", ["q", "k"])
def test_dropped_permutation_shows(
    canonical: str, as_hf: AsHf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: rows left in transformers' order."""
    template = f"layers.{{i}}.attention.{canonical}.weight"
    rows = tuple(
        replace(r, order=RowOrder.SAME) if r.canonical == template else r for r in META_3.rows
    )
    monkeypatch.setattr("llamatools.plan.build.META_3", replace(META_3, rows=rows))
    golden = BY_NAME["llama3-gqa"]
    options = llamatools.Options(to="meta", shards=1)
    llamatools.convert(as_hf(golden.folder(1)), tmp_path / "meta", options)
    assert golden.error(_run(tmp_path / "meta", golden)[0]) > DEFECT
