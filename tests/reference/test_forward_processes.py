"""Under torchrun, layers are dealt to processes, and not one bit of what is shown changes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_kit import CPU, Seen, seen
from goldens import BY_NAME, HOME
from support.tiny import Tiny, finite
from support.tiny_files import write_hf

from llamatools.reference.observe import Prompt
from llamatools.reference.ranks import Ranks

HERE = Path(__file__).parent
Start = Callable[[Path, int], list[dict[str, Any]]]
TOKENS = [t % 160 for t in range(0, 600, 7)]
PROMPTS = [
    (TOKENS, [*range(40), *range(4096, 4096 + len(TOKENS) - 40)]),
    (TOKENS[:7], [*range(7)]),
    ([3], [0]),
]


def _jobs(folder: Path, sources: list[Path], **more: Any) -> Path:
    out = folder / "jobs.json"
    jobs = {
        "sources": [(str(s), str(folder / f"{i}.out")) for i, s in enumerate(sources)],
        "prompts": PROMPTS,
        "device": "cpu",
        "fail": None,
    }
    out.write_text(json.dumps(jobs | more))
    return out


def _environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parent), str(HOME.parent)])
    return {**os.environ, "PYTHONPATH": paths, **more}


def _by_torchrun(jobs: Path, count: int) -> list[dict[str, Any]]:
    """What each process says; all must have ended well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), str(HERE / "forward_process.py"), str(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return _said(jobs, count)


def _by_hand(jobs: Path, count: int) -> list[dict[str, Any]]:
    """The same, in half of the time."""
    assert _without_torchrun(jobs, count) == [0] * count
    return _said(jobs, count)


def _said(jobs: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads((jobs.parent / f"said.{i}").read_text()) for i in range(count)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two and three layers; and three that are large enough for products to be cut into threads."""
    large = finite(Tiny(heads=8, kv_heads=2, head_dim=64, layers=3, ffn=1536, vocab=160))
    made = write_hf(large, tmp_path_factory.mktemp("large") / "hf")
    return [BY_NAME["llama31-scaled"].folder(2), BY_NAME["llama3-mqa"].folder(4), made]


@pytest.fixture(scope="module")
def alone(sources: list[Path]) -> list[Seen]:
    asked = [Prompt(str(i), tuple(t), tuple(p)) for i, (t, p) in enumerate(PROMPTS)]
    return [seen(source, asked, CPU) for source in sources]


def processes_show(
    sources: list[Path],
    alone: list[Seen],
    count: int,
    folder: Path,
    device: str = "cpu",
    start: Start = _by_torchrun,
) -> None:
    """Several processes show, bit for bit, what one alone did."""
    said = start(_jobs(folder, sources, device=device), count)
    assert [s["processes"] for s in said] == [count] * count
    assert [s["shown"] > 0 for s in said] == [True] + [False] * (count - 1)
    assert min(s["read"] for s in said) > 0  # each reads layers
    for i, one in enumerate(alone):
        states, parts = torch.load(folder / f"{i}.out")
        assert len(states) == len(one.states) and len(parts) == len(one.parts)
        assert all(torch.equal(a, b) for a, b in zip(states, one.states, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(parts, one.parts, strict=True))


@pytest.mark.parametrize(
    ("count", "start"),
    [
        (2, _by_hand),
        pytest.param(2, _by_torchrun, marks=pytest.mark.slow),
        pytest.param(3, _by_torchrun, marks=pytest.mark.slow),
    ],
)
def test_several_processes_show_what_one_does(
    count: int, start: Start, sources: list[Path], alone: list[Seen], tmp_path: Path
) -> None:
    processes_show(sources, alone, count, tmp_path, start=start)


def test_each_layer_has_one_owner() -> None:
    groups = [Ranks(i, 3).layers(8) for i in range(3)]
    assert groups == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert all(Ranks(0, 3).owner(i) == r for r, mine in enumerate(groups) for i in mine)


# --- failures -------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _without_torchrun(jobs: Path, count: int) -> list[int]:
    """Exit codes of processes that nobody ends when one of them fails."""
    port = str(_free_port())
    running = []
    for i in range(count):
        group = {
            "RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        command = [sys.executable, str(HERE / "forward_process.py"), str(jobs)]
        running.append(
            subprocess.Popen(command, env=_environment(**group), stderr=subprocess.DEVNULL)
        )
    try:
        return [p.wait(timeout=120) for p in running]
    finally:
        for p in running:
            p.kill()
            p.wait()


@pytest.mark.parametrize(
    ("process", "how"), [(1, "reads"), pytest.param(0, "observer", marks=pytest.mark.slow)]
)
def test_all_processes_fail_for_the_reason_of_one(process: int, how: str, tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, [BY_NAME["llama3-mqa"].folder(1)], fail=(process, how))
    codes = _without_torchrun(jobs, 2)
    said = _said(jobs, 2)
    assert codes[process] == 3
    assert said[process]["error"] == "BadInput" and len(said[process]["problems"]) == 1
    other = said[1 - process]
    assert codes[1 - process] in (3, 4)
    if process:  # the one that is left holds what they have said to each other
        assert other["problems"] == ["process 1: this file is damaged"]
        assert other["hint"] == "fetch it again"


def test_a_process_that_dies_leaves_no_other_waiting(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, [BY_NAME["llama3-mqa"].folder(1)], fail=(1, "dies"))
    assert _without_torchrun(jobs, 2) == [4, 9]
    said = json.loads((tmp_path / "said.0").read_text())
    assert said["error"] == "IOFailed" and "lost each other" in said["problems"][0]
