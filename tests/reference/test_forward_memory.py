"""What a pass takes of memory is known before it runs, and holds."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_kit import CPU, plain, seen
from goldens import BY_NAME, HOME
from support.sparse import Sizes, write_sparse_hf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import llamatools
from llamatools.errors import UsageError
from llamatools.reference import streaming
from llamatools.reference.footprint import Footprint, footprint
from llamatools.reference.observe import Prompt
from llamatools.reference.run import Runner, run

MIDDLE = Sizes(dim=512, layers=3, heads=8, kv_heads=2, ffn=1536, vocab=16000)
WIDE_VOCABULARY = Sizes(dim=256, layers=2, heads=8, kv_heads=2, ffn=512, vocab=32000)
GAPPED = Prompt("gapped", (1,) * 64, (*range(32), *range(4096, 4128)))
USUAL = [plain(*[1] * n) for n in (8, 64, 512)] + [GAPPED]


def config_of(m: Sizes) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": m.dim, "intermediate_size": m.ffn,
        "num_hidden_layers": m.layers, "num_attention_heads": m.heads, "vocab_size": m.vocab,
        "num_key_value_heads": m.kv_heads, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "max_position_embeddings": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip


class Nobody:
    def hidden(self, *shown: object) -> None:
        pass

    def logits(self, *shown: object) -> None:
        pass


class Traced(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in self._known:
                self._take(t.untyped_storage())
        return out

    def _take(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@pytest.mark.parametrize(
    "dtype", ["fp32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("bf16", "fp64"))]
)
@pytest.mark.parametrize("sizes", [MIDDLE, WIDE_VOCABULARY], ids=["layers", "head"])
@pytest.mark.parametrize(
    "prompts", [USUAL, [plain(1)], [plain(*[1] * 1100)]], ids=["usual", "one", "long"]
)
def test_memory_is_as_reckoned(
    prompts: list[Prompt], sizes: Sizes, dtype: str, tmp_path: Path
) -> None:
    """Never more, and not half as much, or caps would refuse what fits."""
    folder = write_sparse_hf(tmp_path / "hf", sizes, config_of(sizes))
    traced = Traced()
    with llamatools.open_checkpoint(folder) as opened, traced:
        report = run(opened, prompts, Nobody(), replace(CPU, dtype=dtype))
    planned = report.footprint.total
    assert planned / 2 < traced.peak <= planned


def test_a_pass_that_takes_more_would_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A layer too many in memory breaks the bound."""
    monkeypatch.setattr(streaming, "TURNS", 3)
    folder = write_sparse_hf(tmp_path / "hf", MIDDLE, config_of(MIDDLE))
    traced = Traced()
    with llamatools.open_checkpoint(folder) as opened, traced:
        report = run(opened, [plain(1)], Nobody(), CPU)
    assert traced.peak > report.footprint.total


def test_the_plan_is_told_before_anything_is_read() -> None:
    told: list[Footprint] = []

    class Asks(Nobody):
        def hidden(self, *shown: object) -> None:
            assert told

    with llamatools.open_checkpoint(BY_NAME["llama3-gqa"].folder(1)) as opened:
        report = run(opened, [GAPPED], Asks(), CPU, announce=told.append)
    assert told == [report.footprint]
    assert report.peak is None and report.within is None  # torch counts on GPUs alone
    planned = json.loads(json.dumps(report.to_json()))["footprint"]
    assert planned["total"] == max(sum(planned["layers"].values()), sum(planned["head"].values()))


def test_a_cap_refuses_before_anything_is_read() -> None:
    golden = BY_NAME["llama3-gqa"].folder(1)
    with llamatools.open_checkpoint(golden) as opened, Runner(opened, CPU) as runner:
        planned = runner.plan([GAPPED]).total
    fits = replace(CPU, max_device_memory=planned)
    assert seen(golden, [GAPPED], fits).same(seen(golden, [GAPPED]))
    with pytest.raises(UsageError, match="are allowed"):
        seen(golden, [GAPPED], replace(CPU, max_device_memory=planned - 1))


def test_two_layers_do_for_any_number_of_layers(tmp_path: Path) -> None:
    """Of real size, and all holes: nothing but headers is read here."""
    eight = Sizes(dim=4096, layers=32, heads=32, kv_heads=8, ffn=14336, vocab=128256)
    totals = []
    for layers in (2, 32):
        m = replace(eight, layers=layers)
        with llamatools.open_checkpoint(
            write_sparse_hf(tmp_path / str(layers), m, config_of(m))
        ) as opened:
            found = footprint(opened, USUAL, CPU, torch.device("cuda"))
            totals.append(found)
            whole = footprint(opened, USUAL, replace(CPU, resident=True), torch.device("cuda"))
            assert whole.layers.weights > opened.spec.n_layers * found.layers.weights / 2
    assert totals[0] == totals[1]
    layer = 2 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)  # bf16
    assert 2 * layer < totals[1].layers.weights < 2.001 * layer
    assert totals[1].layers.matrix == 4 * 4096 * 14336
    assert totals[1].total < 3 << 30


# --- on the processor, resident set and all -------------------------------------------------------

_MEASURED = """
import json, re, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
import llamatools
from forward_kit import CPU, plain
from llamatools.reference.run import run
from test_forward_memory import Nobody, GAPPED, plain
prompts = [plain(*[1] * n) for n in json.loads(sys.argv[3])] + [GAPPED]
with llamatools.open_checkpoint(sys.argv[2]) as opened:
    report = run(opened, prompts, Nobody(), CPU)
# Not that of getrusage, which starts with that of the process which forked.
peak = re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]
print(json.dumps([report.read, int(peak) * 1024]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize(
    "lengths", [[8], pytest.param([8, 64, 512, 512], marks=pytest.mark.slow)], ids=str
)
def test_three_gigabytes_are_streamed_within_one(lengths: list[int], tmp_path: Path) -> None:
    shape = Sizes(dim=2048, layers=16, heads=32, kv_heads=8, ffn=8192, vocab=128256)
    folder = write_sparse_hf(tmp_path / "hf", shape, config_of(shape))
    size = (folder / "model.safetensors").stat().st_size
    assert size > 2.9e9
    here = Path(__file__).parent
    paths = json.dumps([str(here), str(here.parent), str(HOME.parent)])
    command = [sys.executable, "-c", _MEASURED, paths, str(folder), json.dumps(lengths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    read, peak = json.loads(done.stdout)
    assert read > 0.8 * size  # all but most rows of the embedding
    assert peak < 1e9
