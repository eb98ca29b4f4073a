"""The forward pass on a GPU: as on a processor, within a cap, about as fast as bytes are read.

    python -m pytest -m gpu -s tests/reference/test_forward_cuda.py

Writes a random model of the 8B's shape, 16 GB, to pytest's temporary folder (`--basetemp`), and
prints figures. No other program should use the device meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forward_kit import CPU, error, plain, prompt, seen, shown
from goldens import GOLDENS, TOLERANCE, Golden
from support.sparse import Sizes, write_sparse_hf
from test_forward_memory import GAPPED, MIDDLE, USUAL, WIDE_VOCABULARY, Nobody, config_of
from test_forward_processes import PROMPTS as SHORT
from test_forward_processes import processes_show

import llamatools
from llamatools.errors import UsageError
from llamatools.reference.observe import Prompt
from llamatools.reference.run import RunReport, run
from llamatools.reference.settings import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

EIGHT = Sizes(dim=4096, layers=32, heads=32, kv_heads=8, ffn=14336, vocab=128256)
CUDA = Settings(device="cuda:0")
CAP = 4_000_000_000
PROMPTS = [*USUAL, plain(0, 128255, 5)]


def _fill(folder: Path) -> Path:
    """Numbers in place of holes: rows of length about 1, gains about 1."""
    generator = torch.Generator("cuda").manual_seed(0)
    with llamatools.open_checkpoint(folder, probe=False) as opened:
        for t in opened.stored:
            drawn = torch.randn(t.shape, generator=generator, device="cuda")
            drawn = drawn.mul_(t.shape[-1] ** -0.5) if len(t.shape) > 1 else drawn.mul_(0.3).exp_()
            data = drawn.bfloat16().cpu().view(torch.int16).numpy()
            with t.file.path.open("r+b") as f:
                f.seek(t.offset)
                f.write(data.data)
    torch.cuda.empty_cache()
    return folder


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("eight")
    folder = _fill(write_sparse_hf(home / "hf", EIGHT, config_of(EIGHT)))
    yield folder
    (folder / "model.safetensors").unlink()


def _reading(path: Path) -> float:
    """Seconds that reading a file takes four threads."""
    fd, size, step = os.open(path, os.O_RDONLY), path.stat().st_size, 2 << 20
    buffers = {i: bytearray(step) for i in range(4)}

    def read(i: int) -> int:
        starts = range(i * step, size, 4 * step)
        return sum(os.preadv(fd, [buffers[i]], at) for at in starts)

    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(read, range(4))) == size
    os.close(fd)
    return time.perf_counter() - began


def _run(folder: Path, settings: Settings, prompts: list[Prompt] = PROMPTS) -> RunReport:
    with llamatools.open_checkpoint(folder) as opened:
        return run(opened, prompts, Nobody(), settings)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_8b_within_four_gigabytes(dtype: str, eight: Path) -> None:
    settings = replace(CUDA, dtype=dtype, max_device_memory=CAP)
    _run(eight, settings)  # brings the file into the page cache, and CUDA's libraries
    report, reading = _run(eight, settings), _reading(eight / "model.safetensors")
    assert report.peak is not None
    print(
        f"\n{report.device}, {dtype}: {report.seconds:.1f} s, {report.seconds / reading:.2f} times "
        f"reading its bytes ({reading:.1f} s); {report.peak:,} bytes of the device, "
        f"{report.footprint.total:,} reckoned"
    )
    assert report.within and report.peak <= CAP
    assert report.seconds < 3 * reading + 2


def test_a_cap_that_is_too_small_refuses(eight: Path) -> None:
    with pytest.raises(UsageError, match="are allowed"):
        _run(eight, replace(CUDA, max_device_memory=1_000_000_000))


def test_bf16_resident_and_streamed_give_the_same_bits(eight: Path) -> None:
    streamed, one = shown(eight, PROMPTS, replace(CUDA, dtype="bf16"))
    resident, other = shown(eight, PROMPTS, replace(CUDA, dtype="bf16", resident=True))
    assert streamed.same(resident)
    assert one.within and other.within
    assert one.peak and other.peak and one.peak < other.peak / 3
    print(f"\nresident {other.seconds:.1f} s, streamed {one.seconds:.1f} s, reading included")


def test_the_8b_as_on_a_processor(eight: Path) -> None:
    asked = [plain(1, 2, 3, 4, 5, 6, 7, 8), Prompt("gapped", GAPPED.tokens[:4], (0, 1, 4096, 4097))]
    here, there = seen(eight, asked, CPU), seen(eight, asked, CUDA)
    errors = [error(there.of(i), here.of(i)) for i in range(2)]
    print(f"\n8B, GPU against processor: {max(errors):.1e}")
    assert max(errors) <= 1e-3


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_golden_logits(golden: Golden) -> None:
    found = seen(golden.folder(2), [prompt(golden)], CUDA)
    assert golden.error(found.of(0)) <= TOLERANCE


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_fp64_as_on_a_processor(golden: Golden) -> None:
    here, there = (
        seen(golden.folder(1), [prompt(golden)], replace(s, dtype="fp64")) for s in (CPU, CUDA)
    )
    assert error(there.of(0), here.of(0)) <= 1e-12


def test_tf32_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is switched off makes a difference on this device, if it has it at all."""
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("the device has no TF32")
    a, b = (torch.randn(512, 512, device="cuda") for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("high")
    try:
        rough = error(a @ b, exact)
        torch.set_float32_matmul_precision("highest")
        assert error(a @ b, exact) < rough / 10
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("sizes", [MIDDLE, WIDE_VOCABULARY], ids=["layers", "head"])
def test_memory_is_as_reckoned(sizes: Sizes, dtype: str, tmp_path: Path) -> None:
    folder = write_sparse_hf(tmp_path / "hf", sizes, config_of(sizes))
    report = _run(folder, replace(CUDA, dtype=dtype), [*USUAL, plain(*[1] * 1100)])
    assert report.peak is not None and report.within
    assert report.footprint.total - report.footprint.workspaces < 2 * report.peak


def test_repeated_runs_give_the_same_bits() -> None:
    golden = GOLDENS[0]
    first, second = (seen(golden.folder(1), [prompt(golden)], CUDA) for _ in range(2))
    assert first.same(second)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_two_gpus_show_what_one_does(tmp_path: Path) -> None:
    source = GOLDENS[-1].folder(1)
    alone = seen(source, [Prompt("", tuple(t), tuple(p)) for t, p in SHORT], CUDA)
    processes_show([source], [alone], 2, tmp_path, device="cuda")
