"""How little is asked for: requests, bytes, time; and that nothing else is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.calls import call
from support.fake_hub import COMMIT, FakeHub, File, Holes, Repo
from support.sparse import Sizes, hf_entries
from support.tiny import Tiny
from support.tiny_files import write_hf

from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.hub import fetching, parallel

NAME = "meta-llama/Llama-3.1-405B"
S405 = Sizes(16384, 126, 128, 8, 53248, 128256)
SHARDS = 191
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
    "intermediate_size": 53248, "max_position_embeddings": 131072, "num_attention_heads": 128,
    "num_hidden_layers": 126, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}  # fmt: skip


@pytest.fixture(scope="module")
def files() -> dict[str, File]:
    """As released: 191 files of about six tensors each, and their index."""
    entries = list(hf_entries(S405, tied=False))
    where: dict[str, str] = {}
    out: dict[str, File] = {"config.json": json.dumps(CONFIG).encode()}
    for i in range(SHARDS):
        name = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        mine = entries[i * len(entries) // SHARDS : (i + 1) * len(entries) // SHARDS]
        layout = safetensors_layout(mine, {"format": "pt"})
        out[name] = Holes(layout.literal(0, []), layout.size)
        where |= {tensor: name for tensor, _, _ in mine}
    index = {"metadata": {"total_size": 811706777600}, "weight_map": where}
    out["model.safetensors.index.json"] = json.dumps(index).encode()
    return out


@pytest.fixture
def big(hub: FakeHub, files: dict[str, File], settings: pytest.MonkeyPatch) -> FakeHub:
    settings.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 20)
    hub.repos[NAME] = Repo(dict(files))
    return hub


def test_a_request_a_shard(big: FakeHub) -> None:
    seen = call("inspect", NAME, "--kv-memory", "--json")
    assert seen.code == 0, seen.err
    assert seen.json["parameters"]["unique"] == {"value": 405_853_388_800, "kind": "exact"}
    assert seen.json["weights"]["loaded"]["value"] == 811_706_777_600
    assert seen.json["model"]["official"] == "llama-3.1-405b"
    assert len(big.fetched(".safetensors")) == SHARDS
    assert len(big.asked) == SHARDS + 3 == seen.json["source"]["requests"]
    assert {a.method for a in big.asked} == {"GET"}
    index = len(big.repos[NAME].files["model.safetensors.index.json"])
    assert big.sent < 2_000_000 + index
    assert seen.json["source"]["bytes"] == big.sent


def test_several_at_once(big: FakeHub) -> None:
    """One after the other they would take 20 seconds."""
    big.delay = 0.1
    start = time.monotonic()
    assert call("inspect", NAME, "--kv-memory").code == 0
    assert time.monotonic() - start < 9
    assert 4 <= big.at_once <= 8


def test_one_at_a_time_is_told(big: FakeHub, settings: pytest.MonkeyPatch) -> None:
    """The control of the test before. The server may not have done with one as the next comes."""
    settings.setattr(parallel, "THREADS", 1)
    call("inspect", NAME, "--kv-memory")
    assert big.at_once <= 2


def test_progress_is_told(big: FakeHub) -> None:
    big.delay = 0.05
    err = call("inspect", NAME, "--kv-memory", "--json").err
    assert f"headers: {SHARDS} of {SHARDS} files" in err
    assert err.splitlines()[0].startswith(f"{NAME}: not a file or folder here; asking 127.0.0.1")


def test_everything_is_of_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    """A branch that moves on meanwhile changes nothing."""
    hub.publish("org/x", write_hf(Tiny(), tmp_path / "hf"), revisions=("main", "refs/pr/1"))
    assert call("inspect", "org/x@refs/pr/1", "--kv-memory").code == 0
    listing, *rest = (a.path for a in hub.asked)
    assert listing == "/api/models/org/x/revision/refs/pr/1?blobs=true"
    assert len(rest) == 2
    assert all(p.startswith(f"/org/x/resolve/{COMMIT}/") for p in rest)


def test_longer_headers_take_a_second_request(
    hub: FakeHub, tmp_path: Path, settings: pytest.MonkeyPatch
) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    hub.publish("org/x", local)
    settings.setattr(fetching, "USUAL", 1000)
    seen = call("inspect", "org/x", "--kv-memory", "--json")
    length = int.from_bytes((local / "model.safetensors").read_bytes()[:8], "little")
    ranges = [a.range for a in hub.fetched(".safetensors")]
    assert ranges == ["bytes=0-999", f"bytes=1000-{length + 7}"]
    assert seen.json["source"]["requests"] == 4
    local_json = call("inspect", local, "--kv-memory", "--json").json
    assert seen.json["weights"] == local_json["weights"]


def test_what_is_sent(hub: FakeHub, tmp_path: Path) -> None:
    """No telemetry, no other program's name, no address but those of the repository."""
    hub.publish("org/x", write_hf(Tiny(), tmp_path / "hf"))
    assert call("inspect", "org/x", "--kv-memory").code == 0
    for asked in hub.asked:
        assert re.match(r"/(api/models/)?org/x/", asked.path)
        assert "authorization" not in asked.headers
        assert asked.headers["accept-encoding"] == "identity"
        agent = asked.headers["user-agent"]
        assert agent.startswith("llamatools/")
        assert set(re.findall(r"(\w+)/", agent)) == {"llamatools", "hf_hub", "python"}


SCRIPT = """
import sys
from llamatools.cli import failures, main
words = sys.argv[1:]
code = failures.guard(lambda: main.cli(words, standalone_mode=False), words)
print(code, *("torch" in sys.modules, "huggingface_hub" in sys.modules), file=sys.stderr)
"""


def _imported(*words: object) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True).stderr.split()[-3:]


def test_the_library_is_imported_only_where_a_hub_is_asked(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write_hf(Tiny(), tmp_path / "hf")
    hub.publish("org/x", local)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert _imported("inspect", local, "--kv-memory") == ["0", "False", "False"]
    assert _imported("inspect", local) == ["0", "False", "False"]
    assert _imported("inspect", "llama-3.1-8b", "--kv-memory") == ["0", "False", "False"]
    assert _imported("inspect", "org/x", "--kv-memory") == ["0", "False", "True"]
