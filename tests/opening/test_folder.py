"""Which files of a folder are a checkpoint: none missing, none twice, none from outside."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.calls import call, spawn
from support.tiny import Tiny
from support.tiny_files import hf_config, read_hf, unequal, write_hf, write_meta

import llamatools
from llamatools.errors import BadInput
from llamatools.opening.weightfiles import SCHEMES

MODEL = Tiny(heads=8, kv_heads=4, head_dim=8, ffn=64, vocab=64)
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """HF files 1 to 3 with an index, written without llamatools."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(MODEL.truth)
    weight_map = {}
    for i in range(3):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        part = {n: MODEL.truth[n] for n in names[i::3]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(hf_config(MODEL)))
    return folder


def _refused(folder: Path, *words: str) -> None:
    done = call("inspect", folder)
    assert done.code == 3, done.out + done.err
    for word in words:
        assert word in done.err
    assert "hint: " in done.err


@pytest.mark.parametrize("indexed", [True, False])
def test_shards(indexed: bool, sharded: Path, tmp_path: Path) -> None:
    if not indexed:
        (sharded / INDEX).unlink()
    llamatools.convert(sharded, tmp_path / "out", llamatools.Options("hf"))
    assert unequal(read_hf(tmp_path / "out"), MODEL.truth) == []


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard(number: int, indexed: bool, sharded: Path) -> None:
    name = f"model-{number:05d}-of-00003.safetensors"
    (sharded / name).unlink()
    if not indexed:
        (sharded / INDEX).unlink()
    _refused(sharded, "missing", name if indexed else str(number))


def test_a_shard_of_another_checkpoint(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    save_file({"x": torch.zeros(1)}, sharded / "model-00001-of-00002.safetensors")
    _refused(sharded, "more than one checkpoint")


def test_a_shard_beside_the_whole(sharded: Path) -> None:
    save_file(MODEL.truth, sharded / "model.safetensors")
    _refused(sharded, "two checkpoints", "model.safetensors")


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    shutil.copy(
        sharded / "model-00001-of-00003.safetensors", sharded / "model-00002-of-00003.safetensors"
    )
    _refused(sharded, "is both in model-00001-of-00003.safetensors and in")


def test_two_shards_swapped(sharded: Path) -> None:
    one, two = (sharded / f"model-0000{n}-of-00003.safetensors" for n in (1, 2))
    one.rename(sharded / "x")
    two.rename(one)
    (sharded / "x").rename(two)
    _refused(sharded, "the index places it in model-00001-of-00003.safetensors")


def _edit_index(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "target",
    ["../other/model.safetensors", "/etc/passwd", "a/b.safetensors", "./x", "..", "", 7, None,
     "gone.safetensors", "model-00001-of-00003.safetensors/", "x\n::error::y"],
)  # fmt: skip
def test_an_index_that_points_elsewhere(target: object, sharded: Path) -> None:
    outside = sharded.parent / "other"
    outside.mkdir()
    save_file(MODEL.truth, outside / "model.safetensors")
    _edit_index(sharded, lambda m: m.update({"model.norm.weight": target}))
    done = call("inspect", sharded)
    assert done.code == 3
    assert "hint: " in done.err
    assert "\n::error" not in done.err


def test_an_index_that_names_what_is_nowhere(sharded: Path) -> None:
    _edit_index(sharded, lambda m: m.update({"ghost": "model-00001-of-00003.safetensors"}))
    _refused(sharded, "ghost", "it is nowhere")


def test_an_index_that_leaves_something_out(sharded: Path) -> None:
    _edit_index(sharded, lambda m: m.pop("model.norm.weight"))
    seen = call("inspect", sharded, "--json")
    assert seen.code == 0
    assert seen.json["notes"] == ["the index does not list model.norm.weight"]


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "[", "7"])
def test_an_index_that_is_none(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    done = call("inspect", sharded)
    assert done.code == 3
    assert INDEX in done.err


def test_a_missing_tensor_and_a_strange_one_are_both_named(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    tensors = dict(MODEL.truth)
    tensors["model.layers.0.mlp.extra.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, source / "model.safetensors")
    _refused(source, "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.extra.weight")


# Ranks.


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 2), (1, 2)])
def test_a_missing_rank(gone: tuple[int, ...], tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 4)
    for rank in gone:
        (source / f"consolidated.{rank:02d}.pth").unlink()
    _refused(source, "missing")


LAST = "nothing tells how many ranks there are but the shapes, and those are believed"


@pytest.mark.parametrize("gone", [(3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_last_ranks_are_missing(gone: tuple[int, ...], command: str, tmp_path: Path) -> None:
    """What is left would be a narrower model: heads of 6, 4 or 2 instead of 8, cut vocabulary."""
    source = write_meta(MODEL, tmp_path / "in", 4)
    for rank in gone:
        (source / f"consolidated.{rank:02d}.pth").unlink()
    more = (tmp_path / "out", "--to", "hf") if command == "convert" else ()
    done = call(command, source, *more)
    assert done.code == 3, done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gone", [(3,), (2, 3), (1, 2, 3)])
def test_the_last_ranks_of_an_older_model_are_missing(
    gone: tuple[int, ...], tmp_path: Path
) -> None:
    """Its embedding is split by columns, which do not fit the norms any more."""
    source = write_meta(Tiny(style="llama-2", heads=8, kv_heads=4, vocab=64), tmp_path / "in", 4)
    for rank in gone:
        (source / f"consolidated.{rank:02d}.pth").unlink()
    assert call("inspect", source).code == 3


def test_a_rank_given_twice(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 1)
    shutil.copy(source / "consolidated.00.pth", source / "consolidated.000.pth")
    _refused(source, "consolidated.000.pth")


def test_ranks_of_two_models(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 2)
    other = write_meta(Tiny(heads=4, kv_heads=4, head_dim=16, ffn=96), tmp_path / "other", 2)
    shutil.copy(other / "consolidated.01.pth", source)
    _refused(source, "do not belong to the same model")


def test_a_rank_that_lacks_a_tensor(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 2)
    file = source / "consolidated.01.pth"
    tensors = torch.load(file, weights_only=True)
    del tensors["layers.1.attention.wo.weight"]
    torch.save(tensors, file)
    _refused(source, "consolidated.01.pth", "layers.1.attention.wo.weight")


def test_one_rank_named_alone_is_not_a_model(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 2)
    done = call("inspect", source / "consolidated.00.pth")
    assert done.code == 2
    assert "one of several files" in done.err


# Things that are not files.


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "config.json", INDEX])
def test_a_pipe_does_not_hang(name: str, sharded: Path) -> None:
    (sharded / name).unlink()
    os.mkfifo(sharded / name)
    process = spawn("inspect", sharded)
    _, err = process.communicate(timeout=30)
    assert b"Traceback" not in err
    if name == INDEX:  # the files speak for themselves
        assert process.returncode == 0
    else:
        assert process.returncode == 3


def test_a_pipe_given_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    process = spawn("inspect", tmp_path / "model.safetensors")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert b"not a regular file" in err


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_given_by_name(device: str) -> None:
    done = call("inspect", device)
    assert done.code in (3, 4)
    assert "Traceback" not in done.err


def test_a_folder_named_like_a_shard(sharded: Path) -> None:
    name = "model-00002-of-00003.safetensors"
    (sharded / name).unlink()
    (sharded / name).mkdir()
    _refused(sharded, "not regular files", name)


def test_the_last_rank_is_a_pipe(tmp_path: Path) -> None:
    source = write_meta(MODEL, tmp_path / "in", 2)
    (source / "consolidated.01.pth").unlink()
    os.mkfifo(source / "consolidated.01.pth")
    _refused(source, "consolidated.01.pth")


# Links.


def test_links_within_the_folder(sharded: Path) -> None:
    name = "model-00002-of-00003.safetensors"
    (sharded / name).rename(sharded / "elsewhere")
    (sharded / name).symlink_to("elsewhere")
    assert call("inspect", sharded).code == 0


@pytest.mark.parametrize("relative", [True, False])
def test_links_that_leave_the_folder(relative: bool, sharded: Path) -> None:
    name = "model-00002-of-00003.safetensors"
    (sharded / name).rename(sharded.parent / "outside")
    target = "../outside" if relative else str(sharded.parent / "outside")
    (sharded / name).symlink_to(target)
    _refused(sharded, name)


def test_a_traveller_that_leads_away_stays_behind(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.json").symlink_to("../secret")
    manifest = llamatools.convert(source, tmp_path / "out", llamatools.Options("hf"))
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert "tokenizer.json" not in str(manifest["files"])


def _hub(folder: Path, below: str, files: Path) -> Path:
    """A repository in the hub's cache; `below` is a folder of the snapshot."""
    repo = folder / "models--meta-llama--Llama-3-8B-Instruct"
    snapshot = repo / "snapshots" / "0123abcd" / below
    (repo / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(files.iterdir())):
        file.rename(repo / "blobs" / f"{i:040x}")
        up = "/".join([".."] * (2 + (below != "")))
        (snapshot / file.name).symlink_to(f"{up}/blobs/{i:040x}")
    return snapshot


def test_the_hubs_cache(tmp_path: Path) -> None:
    snapshot = _hub(tmp_path, "", write_hf(MODEL, tmp_path / "in"))
    assert call("inspect", snapshot).code == 0
    assert call("inspect", snapshot / "model.safetensors").code == 0
    assert call("convert", snapshot, tmp_path / "out", "--to", "meta", "-q").code == 0


def test_metas_files_in_the_hubs_cache(tmp_path: Path) -> None:
    """Every official repository keeps them in `original`."""
    snapshot = _hub(tmp_path, "original", write_meta(MODEL, tmp_path / "in", 2))
    done = call("inspect", snapshot)
    assert done.code == 0, done.err


def test_a_snapshot_must_not_link_into_anothers_blobs(tmp_path: Path) -> None:
    snapshot = _hub(tmp_path, "", write_hf(MODEL, tmp_path / "in"))
    blobs = tmp_path / "models--other" / "blobs"
    blobs.mkdir(parents=True)
    weights = snapshot / "model.safetensors"
    shutil.copy(weights, blobs / "x")
    weights.unlink()
    weights.symlink_to(blobs / "x")
    _refused(snapshot, "model.safetensors")


@pytest.mark.parametrize("name", ["loop", "model-00004-of-00003.safetensors"])
def test_a_link_to_itself(name: str, sharded: Path) -> None:
    (sharded / name).symlink_to(name)
    assert call("inspect", sharded).code in (0, 3)


# One file, other names, two containers.


def test_the_one_weight_file(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    (source / "model.safetensors").rename(source / "finetuned.safetensors")
    digest = llamatools.fingerprint(source).digest
    assert llamatools.fingerprint(source / "finetuned.safetensors").digest == digest
    save_file({"x": torch.zeros(1)}, source / "other.safetensors")
    assert llamatools.fingerprint(source / "finetuned.safetensors").digest == digest
    _refused(source, "no weights")


def test_a_single_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_hf(MODEL, tmp_path / "in"))
    assert call("inspect", "model.safetensors").code == 0


def test_a_model_in_two_containers_is_read_once(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    torch.save(MODEL.truth, source / "pytorch_model.bin")
    seen = call("inspect", source, "--json").json
    assert [f["name"] for f in seen["files"]] == ["model.safetensors"]
    assert seen["notes"] == ["weight files that were not read: pytorch_model.bin"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere/at/all", "in/model.safetensors/x", "in/gone"])
def test_a_source_that_is_not_there(name: str, tmp_path: Path) -> None:
    write_hf(MODEL, tmp_path / "in")
    done = call("inspect", tmp_path / name)
    assert done.code in (3, 4)
    assert done.err.startswith("error: ")


def test_an_empty_folder(tmp_path: Path) -> None:
    _refused(tmp_path, "no weights", "found no files")


@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_a_missing_config(layout: str, tmp_path: Path) -> None:
    write = write_hf if layout == "hf" else lambda m, p: write_meta(m, p, 1)
    source = write(MODEL, tmp_path / "in")
    name = {"hf": "config.json", "meta": "params.json"}[layout]
    (source / name).unlink()
    _refused(source, f"{name} is missing")


def test_files_that_travel(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    travel = ("tokenizer.json", "tokenizer_config.json", "LICENSE.txt", "generation_config.json")
    for name in (*travel, "README.md", "train.py"):
        (source / name).write_bytes(name.encode() * 100)
    llamatools.convert(source, tmp_path / "out", llamatools.Options("meta"))
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert {n: written[n] for n in travel} == {n: n.encode() * 100 for n in travel}
    assert not {"README.md", "train.py"} & written.keys()


def test_a_traveller_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    with open(os.fsencode(source) + b"/LICENSE\xff", "w") as f:  # noqa: PTH123
        f.write("x")
    assert call("convert", source, tmp_path / "out", "--to", "meta").code in (0, 3)


def test_generation_config_survives_a_round_trip(tmp_path: Path) -> None:
    source = write_hf(MODEL, tmp_path / "in")
    mine = '{"temperature": 0.6, "eos_token_id": [1, 2]}'
    (source / "generation_config.json").write_text(mine)
    llamatools.convert(source, tmp_path / "meta", llamatools.Options("meta"))
    llamatools.convert(tmp_path / "meta", tmp_path / "back", llamatools.Options("hf"))
    assert (tmp_path / "back" / "generation_config.json").read_text() == mine


def test_more_files_than_the_vocabulary_has_rows(tmp_path: Path) -> None:
    source = write_hf(Tiny(heads=8, kv_heads=2, head_dim=8, ffn=64, vocab=3), tmp_path / "in")
    out = tmp_path / "out"
    assert call("convert", source, out, "--to", "meta", "--shards", 4).code in (2, 0)
    assert not out.exists() or call("inspect", out).code == 0


def test_many_numbered_files_take_no_square() -> None:
    names = [f"model-{i:05}-of-99999.safetensors" for i in range(1, 20_001)]
    start = time.process_time()
    with pytest.raises(BadInput, match=r"20001, 20002, .* are missing"):
        SCHEMES[0].check_complete(names, "here")
    ranks = [f"consolidated.{i:02}.pth" for i in range(100)]
    with pytest.raises(BadInput, match=r"more than one file of a number: .*consolidated\.007\.pth"):
        SCHEMES[2].check_complete([*ranks, "consolidated.007.pth"], "here")
    assert time.process_time() - start < 5
